"""What can be said of a reconstruction without the truth."""
