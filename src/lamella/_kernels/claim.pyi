from typing_extensions import Buffer

Columns = tuple[Buffer | None, ...]

STATE_NBYTES: int
NODE_NBYTES: int
MAX_LEVEL: int
FULL: int
RELINK: int
RESTORE: int
THROUGH: int
BELOW: int
TWICE: int
LINK: int
MARKER: int
NAME: int

def open_claims(state: Buffer, nodes: Buffer) -> None: ...
def claim(
    state: Buffer,
    nodes: Buffer,
    slots: Buffer,
    seed: int,
    names: Buffer,
    columns: Columns,
    origin: Buffer,
    begin: int,
    end: int,
    level: int,
) -> tuple[int, int, int]: ...
def refill(state: Buffer, nodes: Buffer, slots: Buffer, seed: int, names: Buffer) -> None: ...
def counts(state: Buffer) -> tuple[int, int]: ...
def missing(state: Buffer, nodes: Buffer, names: Buffer) -> list[bytes]: ...
def directories(state: Buffer, nodes: Buffer, out: Buffer) -> int: ...
