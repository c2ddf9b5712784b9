from typing_extensions import Buffer

N_STATE: int

def read(fd: int, branch: int, scratch: Buffer, records: Buffer, state: Buffer) -> int: ...
def merge(records: Buffer, ends: Buffer, slots: Buffer, seed: int, aufs: bool) -> tuple[int, int]: ...
def seek(records: Buffer, begin: int, number: int) -> int: ...
def spell(
    records: Buffer,
    begin: int,
    flips: Buffer,
    skipped: int,
    out: Buffer,
    used: int,
    found: Buffer,
    plus: bool,
    kind: int,
) -> tuple[int, int, int, int]: ...
