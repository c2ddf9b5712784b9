from typing_extensions import Buffer

Columns = tuple[Buffer | None, ...]

def scratch_nbytes(shape: Buffer) -> int: ...
def changed(
    fd_a: int,
    tables_a: Buffer,
    used_a: Buffer,
    fd_b: int,
    tables_b: Buffer,
    used_b: Buffer,
    shape: Buffer,
    ranges: Buffer,
    state: Buffer,
    out: Buffer,
    modes_a: Buffer,
    modes_b: Buffer,
    scratch: Buffer,
) -> int: ...
def rows(
    fd: int,
    shape: Buffer,
    tables: Buffer,
    used: Buffer,
    inodes: Buffer,
    columns: Columns,
    modes: Buffer,
    nlink: Buffer,
    dev: int,
    state: Buffer,
    scratch: Buffer,
    options: int,
) -> int: ...
def runs(
    fd: int, shape: Buffer, tables: Buffer, used: Buffer, inode: int, state: Buffer, out: Buffer, scratch: Buffer
) -> int: ...
def small(fd: int, shape: Buffer, tables: Buffer, used: Buffer, inode: int, out: Buffer) -> int: ...
def owners(
    fd: int, shape: Buffer, tables: Buffer, used: Buffer, ranges: Buffer, state: Buffer, out: Buffer, scratch: Buffer
) -> int: ...
