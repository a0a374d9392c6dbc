"""What sampling costs: parts of the theory claim, the real layers that they look at, larger machines."""
