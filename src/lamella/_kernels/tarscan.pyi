from typing_extensions import Buffer

Columns = tuple[Buffer | None, ...]

STATE_NBYTES: int
NEED_INPUT: int
OUTPUT_FULL: int
AT_END: int
SCRATCH_FULL: int

def scan(
    buf: Buffer,
    begin: int,
    state: Buffer,
    scratch: Buffer,
    columns: Columns,
    n_rows: int,
    arena_used: int,
    limits: Buffer,
) -> tuple[int, int, int, int]: ...
def scan_fd(
    fd: int,
    state: Buffer,
    scratch: Buffer,
    columns: Columns,
    n_rows: int,
    arena_used: int,
    limits: Buffer,
    base: int = 0,
) -> tuple[int, int, int]: ...
def finish(state: Buffer, scratch: Buffer) -> None: ...
def offset(state: Buffer) -> int: ...
