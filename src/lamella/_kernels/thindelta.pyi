from typing_extensions import Buffer

CURSOR: int
RIGHT: int

def open_delta(
    arena: Buffer, state: Buffer, fd: int, cursor: Buffer, left_root: int, right_root: int, same: bool
) -> None: ...
def delta(
    arena: Buffer,
    state: Buffer,
    left_window: Buffer | None,
    right_window: Buffer | None,
    fd: int,
    cursor: Buffer,
    columns: tuple[Buffer, Buffer, Buffer, Buffer, Buffer],
    n_data: int,
    same: bool,
    loose: bool,
) -> int: ...
