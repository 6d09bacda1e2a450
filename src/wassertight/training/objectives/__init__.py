"""Training objectives, one published method a file."""
