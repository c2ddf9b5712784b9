"""Bytes in and out of a blob: sources, codecs, digests, and the ring of buffers between threads."""
