from typing_extensions import Buffer

Columns = tuple[Buffer | None, ...]

RUN: int

def dirs(target: int, columns: Columns) -> None: ...
def files(
    source: int,
    target: int,
    columns: Columns,
    turns: Buffer,
    scratch: Buffer,
    share: bool = True,
    ranges: bool = True,
) -> tuple[int, int, int]: ...
def links(target: int, columns: Columns) -> None: ...
def finish(target: int, columns: Columns) -> None: ...
