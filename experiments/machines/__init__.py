"""What one machine can do: rates of kernels, memory, several devices, a new GPU."""
