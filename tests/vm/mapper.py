"""Device mapper by its ioctls, for the guest: no process for an operation, and errno as the kernel gives it.

Runs inside the machine with nothing but the standard library.
"""

from __future__ import annotations

import fcntl
import os
import struct

HEADER = struct.Struct("=3I2IIiIIIQ128s129s7x")  # struct dm_ioctl
TARGET = struct.Struct("=QQiI16s")  # struct dm_target_spec
MESSAGE = struct.Struct("=Q")  # struct dm_target_msg, the text follows
CREATE, REMOVE, SUSPEND, LOAD, STATUS, SEND = 3, 4, 6, 9, 12, 14
FLAG_SUSPEND = 1 << 1
ROOM = 16384


class Mapper:
    """The control device."""

    def __init__(self) -> None:
        self.control = os.open("/dev/mapper/control", os.O_RDWR)

    def create(self, name: str, *targets: tuple[int, int, str, str]) -> str:
        """Make an active device of ``(begin, nsectors, kind, parameters)``; return its number as ``major:minor``."""
        number = self._call(CREATE, name)[0]
        try:
            self.load(name, *targets)
            self.resume(name)
        except OSError:
            self.remove(name)
            raise
        return f"{os.major(number)}:{os.minor(number)}"

    def load(self, name: str, *targets: tuple[int, int, str, str]) -> None:
        """Give a device a table, which its next resume makes the active one."""
        table = b""
        for begin, nsectors, kind, parameters in targets:
            text = parameters.encode() + b"\0"
            text += bytes(-(TARGET.size + len(text)) % 8)
            table += TARGET.pack(begin, nsectors, 0, TARGET.size + len(text), kind.encode()) + text
        self._call(LOAD, name, table, ntargets=len(targets))

    def resume(self, name: str) -> None:
        """Let requests pass, through the table that was loaded last."""
        self._call(SUSPEND, name)

    def suspend(self, name: str) -> None:
        """Hold requests back."""
        self._call(SUSPEND, name, flags=FLAG_SUSPEND)

    def remove(self, name: str) -> None:
        """Take the device away."""
        self._call(REMOVE, name)

    def message(self, name: str, text: str) -> None:
        """Send a message to the device's first target."""
        self._call(SEND, name, MESSAGE.pack(0) + text.encode() + b"\0")

    def status(self, name: str) -> str:
        """Return the status of the device's first target."""
        begin, answer = self._call(STATUS, name)[1:]
        text = answer[begin + TARGET.size :]
        return text[: text.index(b"\0")].decode()

    def _call(self, code: int, name: str, payload: bytes = b"", *, ntargets: int = 0, flags: int = 0) -> tuple[int, int, bytes]:
        """Make one call; return the device's number, where the answer begins, and the whole answer."""
        size = HEADER.size
        head = HEADER.pack(4, 0, 0, ROOM, size, ntargets, 0, flags, 0, 0, 0, name.encode(), b"")
        buffer = bytearray(head + payload + bytes(ROOM - len(head) - len(payload)))
        fcntl.ioctl(self.control, 0xC000FD00 | size << 16 | code, buffer)
        answered = HEADER.unpack_from(buffer)
        return answered[10], answered[4], bytes(buffer)
