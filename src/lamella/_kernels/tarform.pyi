from typing_extensions import Buffer

Columns = tuple[Buffer | None, ...]

def form(
    columns: Columns,
    rows: Buffer,
    out: Buffer,
    begin: int = 0,
    links: Buffer | None = None,
    clamp_mtime: int | None = None,
    libarchive_xattr: bool = False,
    sparse: bool = False,
) -> tuple[int, int, int, int]: ...
