"""A method's arguments as commands, and their results as its result."""
