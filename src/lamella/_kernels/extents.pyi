from typing_extensions import Buffer

SWEEP_WORDS: int

def lookup(
    thin: Buffer,
    data: Buffer,
    length: Buffer,
    time: Buffer | None,
    blocks: Buffer,
    data_out: Buffer,
    time_out: Buffer | None,
) -> None: ...
def splice(
    thin: Buffer,
    data: Buffer,
    length: Buffer,
    time: Buffer,
    thin_above: Buffer,
    data_above: Buffer | None,
    length_above: Buffer,
    time_above: Buffer | None,
    state: Buffer,
    thin_out: Buffer,
    data_out: Buffer,
    length_out: Buffer,
    time_out: Buffer,
) -> tuple[int, bool]: ...
def classify(
    thin: Buffer,
    data: Buffer,
    length: Buffer,
    thin_right: Buffer,
    data_right: Buffer,
    length_right: Buffer,
    join: bool,
    same: bool,
    state: Buffer,
    kind: Buffer,
    begin: Buffer,
    length_out: Buffer,
    left: Buffer,
    right: Buffer,
) -> tuple[int, bool]: ...
