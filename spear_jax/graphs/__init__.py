"""Graph networks as pure functions: graphs, their features, architectures, forward passes, observations."""
