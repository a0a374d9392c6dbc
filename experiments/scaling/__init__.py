"""Sampling over devices, hosts and clusters."""
