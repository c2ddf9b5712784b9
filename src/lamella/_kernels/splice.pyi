from typing_extensions import Buffer

Columns = tuple[Buffer | None, ...]

STATE_ITEMS: int
FULL: int
MORE: int
DONE: int
HEAD: int

def splice(
    columns: Columns,
    rows: Buffer,
    offs: Buffer,
    end: int,
    state: Buffer,
    chunk: Buffer,
    chunk_off: int,
    out: Buffer,
    head: Buffer,
    clamp_mtime: int | None = None,
    libarchive_xattr: bool = False,
    sparse: bool = False,
) -> tuple[int, int]: ...
