from typing_extensions import Buffer

Columns = tuple[Buffer | None, ...]

STATE_NBYTES: int
FULL: int
DONE: int
VANISHED: int
SHRANK: int
GREW: int
HEAD: int
REGIONS: int

def pack(
    dirfd: int,
    columns: Columns,
    rows: Buffer,
    state: Buffer,
    out: Buffer,
    head: Buffer,
    regions: Buffer | None = None,
    links: Buffer | None = None,
    clamp_mtime: int | None = None,
    libarchive_xattr: bool = False,
    by_parts: bool = False,
) -> tuple[int, int, int]: ...
def counts(state: Buffer) -> tuple[int, int]: ...
def release(state: Buffer) -> None: ...
def same(
    dirfd_a: int,
    columns_a: Columns,
    dirfd_b: int,
    columns_b: Columns,
    rows_a: Buffer,
    rows_b: Buffer,
    out: Buffer,
    scratch: Buffer,
    by_parts: bool = False,
) -> int: ...
