from typing_extensions import Buffer

CURSOR: int
SALT_SUPERBLOCK: int
SALT_INDEX: int

def load(arena: Buffer, state: Buffer, fd: int, number: int, salt: int) -> None: ...
def seal(block: Buffer, number: int, salt: int) -> None: ...
def open_walk(cursor: Buffer, root: int) -> None: ...
def extents(
    arena: Buffer,
    state: Buffer,
    window: Buffer | None,
    fd: int,
    cursor: Buffer,
    begin: Buffer,
    data: Buffer,
    length: Buffer,
    time: Buffer,
    n_data: int,
) -> int: ...
def entries(
    arena: Buffer, state: Buffer, window: Buffer | None, fd: int, cursor: Buffer, keys: Buffer, values: Buffer
) -> int: ...
