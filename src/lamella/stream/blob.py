"""The two ends of every road: a layer blob read as raw chunks, and raw bytes written as a layer blob.

Reading: one thread reads and inflates, one computes both digests, the caller consumes. Writing: the caller fills
buffers, one thread or two compress, one computes both digests and writes.
"""

from __future__ import annotations

from lamella.stream.blob_reader import BlobReader
from lamella.stream.blob_writer import BlobResult, BlobWriter

__all__ = ["BlobReader", "BlobResult", "BlobWriter"]
