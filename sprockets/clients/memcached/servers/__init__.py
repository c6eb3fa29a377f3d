"""Servers as the process knows them, and where keys live."""
