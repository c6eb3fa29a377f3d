"""A function whose results are cached."""
