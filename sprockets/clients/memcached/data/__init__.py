"""What is stored: Python values as flags and bytes, and back."""
