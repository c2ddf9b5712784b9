from typing_extensions import Buffer

Columns = tuple[Buffer | None, ...]

def compact(columns: Columns, arena: Buffer | None = None) -> int: ...
def links(
    lower: Columns, upper: Columns, match: Buffer, dirty: Buffer, cls: Buffer, keep: Buffer, flags: Buffer
) -> None: ...
def merge(
    lower: Columns,
    upper: Columns,
    state: Buffer,
    options: int,
    kind: Buffer,
    lower_rows: Buffer,
    upper_rows: Buffer,
    why: Buffer,
    match: Buffer,
) -> int: ...
def parents(columns: Columns, out: Buffer) -> None: ...
