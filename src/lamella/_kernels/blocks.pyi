from typing_extensions import Buffer

def compare(
    a: Buffer, b: Buffer, block_size: int, first: int, begins: Buffer, lengths: Buffer
) -> tuple[int, int, int]: ...
def zeros(
    a: Buffer, block_size: int, zero: bool, first: int, begins: Buffer, lengths: Buffer
) -> tuple[int, int, int]: ...
