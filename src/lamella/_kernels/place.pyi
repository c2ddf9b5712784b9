from typing_extensions import Buffer, disjoint_base

Columns = tuple[Buffer | None, ...]

STATE_NBYTES: int
FRESH: int
CHOWN: int
TOLERANT: int
NO_XATTRS: int
SELINUX: int
ESCAPE_OVERLAY: int
NO_TRUSTED: int
HOLES: int
SYNC: int
KEEP_DIRLINKS: int
ASK_DUPLICATES: int
ASK_LINKS: int
WRITABLE_DIRS: int
CLAMP_TIMES: int
ZERO_DEVICE: int
WHITEOUT: int
DOTDOT: int
ROOT: int
PARENT: int
REPLACE_DIR: int
DIRLINK: int
LINK: int
DEVICE: int
OWNER: int
DUPLICATE: int

@disjoint_base
class Batch:
    def serve(self) -> None: ...
    def stop(self) -> None: ...

def open_state(state: Buffer, root_fd: int, options: int) -> None: ...
def counters(state: Buffer) -> tuple[int, int, int, int, int]: ...
def reset(state: Buffer) -> None: ...
def push(state: Buffer, path: Buffer, fd: int) -> None: ...
def place(
    state: Buffer,
    columns: Columns,
    begin: int,
    end: int,
    chunk: Buffer,
    chunk_off: int,
    slots: Buffer,
    seed: int,
    uids: Buffer | None,
    gids: Buffer | None,
    warnings: Buffer,
    batch: Batch | None = None,
) -> tuple[int, int]: ...
def finish(
    state: Buffer,
    columns: Columns,
    order: Buffer,
    begin: int,
    uids: Buffer | None,
    gids: Buffer | None,
    warnings: Buffer,
) -> int: ...
