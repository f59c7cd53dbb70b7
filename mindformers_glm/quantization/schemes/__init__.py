"""The schemes: one file each, and the table of their names (registered.py)."""
