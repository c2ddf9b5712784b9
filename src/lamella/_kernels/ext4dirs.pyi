from typing_extensions import Buffer

def entries(
    fd: int,
    shape: Buffer,
    tables: Buffer,
    used: Buffer,
    dirs: Buffer,
    columns: tuple[Buffer, ...],
    seen: Buffer,
    state: Buffer,
    scratch: Buffer,
    options: int,
) -> int: ...
