"""Convolutional networks: exact features from the first fully connected layer, and images from features."""
