"""The parts of `experiments.theory`, one figure of the paper each, and the real layers that they look at."""
