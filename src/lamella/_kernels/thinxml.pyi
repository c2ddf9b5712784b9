from typing_extensions import Buffer

STATE_NBYTES: int
LINE_NBYTES: int
XML: int
HUMAN: int
RANGE: int
PAIR: int
MORE: int
FULL: int
SUPERBLOCK: int
DEVICE: int
DEVICE_END: int
SUPERBLOCK_END: int
NAMES: tuple[str, ...]
WORDS: dict[int, str]

def render(
    thin: Buffer, data: Buffer, length: Buffer, time: Buffer, begin: int, form: int, out: Buffer
) -> tuple[int, int]: ...
def scan(
    state: Buffer, buffer: Buffer, thin: Buffer, data: Buffer, length: Buffer, time: Buffer
) -> tuple[int, int, int]: ...
def values(state: Buffer) -> dict[str, int]: ...
def is_done(state: Buffer) -> bool: ...
