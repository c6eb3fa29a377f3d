"""Values that are computed once."""
