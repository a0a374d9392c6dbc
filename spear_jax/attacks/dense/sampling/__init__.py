"""The first proposer: null vectors of random submatrices (SPEAR, Alg. 1), flat or by pivot walks."""
