"""Metadata whose trees are whole, written anew: space maps are made from the trees, whatever they were."""

from __future__ import annotations

import os
from dataclasses import replace
from errno import EINVAL

from lamella.block.building import Builder
from lamella.block.dumping import AS_THEY_ARE, Overrides
from lamella.block.metadata import Metadata
from lamella.block.superblock import Superblock

__all__ = ["repair"]


def repair(metadata: Metadata, fd: int, *, overrides: Overrides = AS_THEY_ARE) -> Superblock:
    """Write the pool of ``metadata`` over all that is on ``fd``, and return its superblock.

    Only space maps are repaired. A superblock or a tree node that is damaged is refused, before anything is written: the
    ``MetadataError`` names the block. What nodes devices share is not kept: each has its own, as thin_repair leaves it.
    """
    if os.path.sameopenfile(metadata.fd, fd):
        raise OSError(EINVAL, "metadata cannot be repaired in place")
    found = metadata.superblock
    roots = metadata.roots()
    devices = metadata.devices()
    for device in devices:
        root = roots[device.dev_id] if device.dev_id in roots else metadata.root_of(device.dev_id)
        for _ in metadata.extents(root=root):
            pass
    transaction, block_size, nr_blocks = overrides.over(found.transaction_id, found.data_block_size, found.data_sm.nblocks)
    builder = Builder(fd, nr_data_blocks=nr_blocks)
    for device in devices:
        builder.add(device, metadata.extents(root=roots[device.dev_id]))
    return builder.finish(replace(found, transaction_id=transaction, data_block_size=block_size))
