from typing_extensions import Buffer

PACKER_NBYTES: int
BLOCK_NBYTES: int
BITMAP_COUNTS: int
ENTRY_NBYTES: int
INDEX_ENTRIES: int

def open_packer(state: Buffer, next_block: int) -> None: ...
def leaves(
    state: Buffer,
    thin: Buffer,
    data: Buffer,
    length: Buffer,
    time: Buffer,
    counts: Buffer,
    blocks: Buffer,
    keys: Buffer,
    numbers: Buffer,
) -> tuple[int, bool]: ...
def last_leaves(state: Buffer, blocks: Buffer, keys: Buffer, numbers: Buffer) -> tuple[int, int, int]: ...
def n_nodes(n: int, size: int) -> int: ...
def nodes(
    entry_keys: Buffer,
    values: Buffer,
    size: int,
    leaf: bool,
    first: int,
    number: int,
    blocks: Buffer,
    keys: Buffer,
    numbers: Buffer,
) -> int: ...
def bitmaps(counts: Buffer, number: int, blocks: Buffer, entries: Buffer) -> None: ...
def index(entries: Buffer, number: int, block: Buffer) -> None: ...
