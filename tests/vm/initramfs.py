"""The first root of the machine: busybox, modules and an init, as a cpio archive in the ``newc`` form."""

from __future__ import annotations

import stat
from collections.abc import Iterator

from tests.vm.kernel import Kernel

FOLDERS = ("bin", "dev", "host", "modules", "proc", "sys")
MOUNT_9P = "/bin/busybox mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000"
INIT = f"""#!/bin/busybox sh
busybox=/bin/busybox
$busybox mount -t devtmpfs dev /dev
exec >/dev/ttyS0 2>&1
$busybox mount -t proc proc /proc
$busybox mount -t sysfs sys /sys
for module in /modules/*; do $busybox insmod $module || echo "cannot load $module"; done
{MOUNT_9P},cache=loose,ro root /host
for name in dev proc sys; do $busybox mount -o bind /$name /host/$name; done
{MOUNT_9P},cache=none job /host/mnt
$busybox chroot /host /bin/sh -c 'cd /mnt && . ./start >output 2>&1; echo $? >status'
echo "the job has ended"
$busybox sync
$busybox poweroff -f
"""


def initramfs(kernel: Kernel) -> bytes:
    """Return the archive."""
    return b"".join(members(kernel))


def members(kernel: Kernel) -> Iterator[bytes]:
    """Yield each member of the archive and its end."""
    for name in FOLDERS:
        yield member(name, stat.S_IFDIR | 0o755, b"")
    yield member("bin/busybox", stat.S_IFREG | 0o755, kernel.busybox.read_bytes())
    for module in kernel.modules:
        yield member(f"modules/{module.name}", stat.S_IFREG | 0o644, module.read_bytes())
    yield member("init", stat.S_IFREG | 0o755, INIT.encode())
    yield member("TRAILER!!!", 0, b"")


def member(name: str, mode: int, content: bytes) -> bytes:
    """Return one member: numbers in hexadecimal, name, content, the last two padded to four bytes."""
    spelled = name.encode() + b"\0"
    inode = owner = group = mtime_s = device = check = 0
    numbers = (inode, mode, owner, group, 1, mtime_s, len(content), device, device, device, device, len(spelled), check)
    head = b"070701" + b"".join(b"%08x" % number for number in numbers) + spelled
    return padded(head) + padded(content)


def padded(content: bytes) -> bytes:
    """Fill up to a multiple of four bytes."""
    return content + bytes(-len(content) % 4)
