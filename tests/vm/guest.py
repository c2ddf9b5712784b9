"""The program inside the machine: runs every script of the job on dm-thin and writes down what came of each operation.

Runs with nothing but the standard library. Emulated Python is slow, so it does little: an ioctl or a direct write each.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import mmap
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

SECTOR = 512
BLKDISCARD = 0x1277
POOL, METADATA, DATA = "pool", "metadata", "data"


def pattern(seed: int, sector: int, nsectors: int) -> bytes:
    """Return what a write puts there: each sector repeats its seed and its number."""
    repeats = SECTOR // 8
    return b"".join(struct.pack("<II", seed, number) * repeats for number in range(sector, sector + nsectors))


class Run:
    """One script on one pool, from the tables of its devices to their removal."""

    def __init__(self, mapper: Any, script: dict[str, Any]) -> None:
        self.mapper = mapper
        self.script = script
        self.opened: dict[int, int] = {}
        self.numbers: dict[str, str] = {}  # of devices, as major:minor: nobody makes nodes with their names

    def result(self) -> dict[str, Any]:
        """Run the script; say how the pool was opened, what each operation gave and what the pool says of itself."""
        for name, disk, kind in ((METADATA, "/dev/vda", "linear"), (DATA, "/dev/vdb", self.script["data_kind"])):
            self.numbers[name] = self.mapper.create(name, self._table(name, disk, kind))
        opened = outcome(self._open_pool)
        result = {"opened": opened, "outcomes": [], "pool": "", "devices": {}}
        if opened == "ok":
            operations = self.script["operations"]
            result["outcomes"] = [outcome(getattr(self, name), *values) for name, *values in operations]
            result["pool"] = self.mapper.status(POOL)
            result["devices"] = {device: self.mapper.status(thin(device)) for device in self.opened}
            self._close_pool()
        self.mapper.remove(DATA)
        self.mapper.remove(METADATA)
        return result

    def _table(self, name: str, disk: str, kind: str, suffix: str = "") -> tuple[int, int, str, str]:
        begin, nsectors = self.script[name]
        return 0, nsectors, kind, "" if kind == "zero" else f"{disk} {begin}{suffix}"

    def _open_pool(self) -> None:
        parameters = f"{self.numbers[METADATA]} {self.numbers[DATA]} {self.script['block_nsectors']} 0"
        self.numbers[POOL] = self.mapper.create(POOL, (0, self.script[DATA][1], "thin-pool", parameters))

    def _close_pool(self) -> None:
        for device in list(self.opened):
            self.close(device)
        self.mapper.remove(POOL)

    def _file(self, device: int) -> int:
        if device not in self.opened:
            table = (0, self.script["device_nsectors"], "thin", f"{self.numbers[POOL]} {device}")
            minor = self.mapper.create(thin(device), table).partition(":")[2]
            self.opened[device] = os.open(f"/dev/dm-{minor}", os.O_RDWR | os.O_DIRECT)
        return self.opened[device]

    def create_thin(self, device: int) -> None:
        self.mapper.message(POOL, f"create_thin {device}")

    def create_snapshot(self, device: int, origin: int) -> None:
        if origin in self.opened:
            self.mapper.suspend(thin(origin))
        try:
            self.mapper.message(POOL, f"create_snap {device} {origin}")
        finally:
            if origin in self.opened:
                self.mapper.resume(thin(origin))

    def delete(self, device: int) -> None:
        self.mapper.message(POOL, f"delete {device}")

    def write(self, device: int, sector: int, nsectors: int, seed: int) -> None:
        file = self._file(device)
        with mmap.mmap(-1, nsectors * SECTOR) as buffer:  # a page's alignment, which a direct write needs
            if self.script["data_kind"] != "zero":
                buffer[:] = pattern(seed, sector, nsectors)
            os.pwritev(file, [buffer], sector * SECTOR)

    def discard(self, device: int, sector: int, nsectors: int) -> None:
        fcntl.ioctl(self._file(device), BLKDISCARD, struct.pack("=QQ", sector * SECTOR, nsectors * SECTOR))

    def close(self, device: int) -> None:
        if device in self.opened:
            os.close(self.opened.pop(device))
            self.mapper.remove(thin(device))

    def set_transaction_id(self, old: int, new: int) -> None:
        self.mapper.message(POOL, f"set_transaction_id {old} {new}")

    def reserve_snapshot(self) -> None:
        self.mapper.message(POOL, "reserve_metadata_snap")

    def release_snapshot(self) -> None:
        self.mapper.message(POOL, "release_metadata_snap")

    def commit(self) -> None:
        for file in self.opened.values():
            os.fsync(file)

    def reopen(self) -> None:
        self._close_pool()
        self._open_pool()

    def digests(self, device: int, begin: int, nblocks: int) -> list[str]:
        file, nbytes = self._file(device), self.script["block_nsectors"] * SECTOR
        found = []
        with mmap.mmap(-1, nbytes) as buffer:
            for block in range(begin, begin + nblocks):
                os.preadv(file, [buffer], block * nbytes)
                found.append(hashlib.sha256(buffer).hexdigest())
        return found

    def break_metadata(self) -> None:
        self._reload_metadata("flakey", " 0 1 1 error_writes")

    def heal_metadata(self) -> None:
        self._reload_metadata("linear", "")

    def _reload_metadata(self, kind: str, suffix: str) -> None:
        self.mapper.load(METADATA, self._table(METADATA, "/dev/vda", kind, suffix))
        self.mapper.suspend(METADATA)
        self.mapper.resume(METADATA)


def thin(device: int) -> str:
    """Name an open device."""
    return f"thin-{device}"


def outcome(act: Callable[..., Any], *values: Any) -> Any:
    """Do it; return ``ok``, what it returned, or the name of its errno."""
    try:
        returned = act(*values)
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "ok" if returned is None else returned


def main() -> None:
    """Run the job in the working directory."""
    from mapper import Mapper

    mapper = Mapper()
    Path("results").mkdir()
    for path in sorted(Path("scripts").iterdir()):
        result = Run(mapper, json.loads(path.read_text())).result()
        (Path("results") / path.name).write_text(json.dumps(result))
        print(path.name, Path("/proc/uptime").read_text().split()[0], flush=True)


if __name__ == "__main__":
    main()
