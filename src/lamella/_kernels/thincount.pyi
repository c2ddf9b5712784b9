from typing_extensions import Buffer

PER_BITMAP: int
NOT_IN_TREE: int

def tree(
    arena: Buffer,
    state: Buffer,
    window: Buffer | None,
    fd: int,
    cursor: Buffer,
    uses: Buffer,
    kinds: Buffer,
    keys: Buffer,
    kind: int,
    size: int,
    data: Buffer | None,
    n_data: int,
) -> None: ...
def bitmaps(
    arena: Buffer,
    state: Buffer,
    fd: int,
    blocks: Buffer,
    begin: int,
    uses: Buffer,
    kinds: Buffer,
    kind: int,
    counts: Buffer,
) -> tuple[int, int]: ...
def mismatches(has: Buffer, wants: Buffer, begin: int, rows: Buffer) -> tuple[int, int]: ...
