"""Graph networks: node rows, neighbourhoods, colours, their counts, and all graphs that share the gradient."""
