"""Buffers that end where readable memory ends: one byte too far is a crash, not luck."""

from __future__ import annotations

import ctypes
import mmap
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lamella.columns import COLUMNS, Columns

PROT_NONE = 0
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


def guarded(like: NDArray[Any]) -> NDArray[Any]:
    """Copy an array to memory that ends flush at a page nobody may touch."""
    n_pages = -(-like.nbytes // mmap.PAGESIZE) + 1
    block = np.frombuffer(mmap.mmap(-1, n_pages * mmap.PAGESIZE), np.uint8)
    end = (n_pages - 1) * mmap.PAGESIZE
    if LIBC.mprotect(block.ctypes.data + end, mmap.PAGESIZE, PROT_NONE) != 0:
        raise OSError(ctypes.get_errno(), "mprotect")
    copy = block[end - like.nbytes : end].view(like.dtype)
    copy[:] = like
    return copy


def guarded_bytes(n: int) -> NDArray[np.uint8]:
    """Return ``n`` zeroed bytes in front of such a page."""
    return guarded(np.zeros(n, np.uint8))


def guarded_columns(columns: Columns) -> Columns:
    """Copy every column of a table so."""
    return tuple(None if c is None else guarded(np.asarray(c, kind)) for c, (_, kind) in zip(columns, COLUMNS, strict=True))


def guarded_front(like: NDArray[Any]) -> NDArray[Any]:
    """Copy an array to memory that begins right behind a page nobody may touch, for offsets below zero."""
    n_pages = -(-like.nbytes // mmap.PAGESIZE) + 1
    block = np.frombuffer(mmap.mmap(-1, n_pages * mmap.PAGESIZE), np.uint8)
    if LIBC.mprotect(block.ctypes.data, mmap.PAGESIZE, PROT_NONE) != 0:
        raise OSError(ctypes.get_errno(), "mprotect")
    copy = block[mmap.PAGESIZE : mmap.PAGESIZE + like.nbytes].view(like.dtype)
    copy[:] = like
    return copy
