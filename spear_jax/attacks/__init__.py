"""One package per family of layers, each with one `reconstruct`. A family sees observations and nothing else."""
