"""The second proposer: all directions found together, in polynomial time, with the help of the known weights."""
