from typing_extensions import Buffer

Columns = tuple[Buffer | None, ...]

FOUND_ROW: int
WHITEOUT_ROW: int
SOCKET_ROW: int
OPTION_AUFS: int
OPTION_BY_PARTS: int
OPTION_PLAIN: int
FACT_HIDING: int
FACT_OPAQUE: int
FACT_XWHITEOUTS: int
FACT_METACOPY: int
FACT_REDIRECT: int
N_STATE: int

def follow(
    root_fd: int,
    names: Columns,
    order: Buffer,
    parents: Buffer,
    want: Buffer,
    columns: Columns,
    verdict: Buffer,
    facts: Buffer,
    nlink: Buffer,
    state: Buffer,
    scratch: Buffer,
    options: int,
) -> int: ...
def own(
    columns: Columns,
    namespaces: int,
    facts: Buffer,
    text_off: Buffer,
    text_len: Buffer,
    ext_off: Buffer,
    ext_len: Buffer,
    more: Buffer,
) -> int: ...
