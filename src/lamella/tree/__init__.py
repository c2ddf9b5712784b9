"""Directories: read as tables, and written to without ever leaving them."""
