"""Tar streams: read as tables of entries, written from them."""
