"""Readers of model files; none runs anything that is in a file. `model_files` chooses by suffix."""
