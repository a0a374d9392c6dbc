"""Files that were damaged on purpose."""
