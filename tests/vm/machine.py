"""One boot of a machine: it runs the shell lines of a folder's file ``start``, and leaves ``output`` and ``status`` there.

The machine sees this host's root, read-only, so the host's programs are its programs; the folder is its ``/mnt``. It is
always emulated: a ``/dev/kvm`` that is there need not run a guest, and a guest that hangs says nothing.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.vm.initramfs import initramfs
from tests.vm.kernel import cache, fetch

QEMU = "qemu-system-x86_64"
COMMAND_LINE = (
    "console=ttyS0 panic=-1 quiet mitigations=off nokaslr tsc=reliable no_timer_check random.trust_cpu=on "
    "rcupdate.rcu_expedited=1"  # suspending a device waits for grace periods
)
TAIL = 40  # lines of the console in a complaint
DEBRIS = "failed"


class MachineFailed(Exception):
    """The machine did not run its job to the end; the message ends with what it said last."""


def boot(folder: Path, disks: Sequence[Path] = (), *, timeout_s: float) -> None:
    """Run the job in ``folder``; the disks become ``/dev/vda``, ``/dev/vdb`` ... MachineFailed if it fails."""
    kernel = fetch()
    (folder / "initramfs").write_bytes(initramfs(kernel))
    try:
        reason = complaint(command(kernel.image, folder, disks), folder, timeout_s)
    finally:
        (folder / "initramfs").unlink()
    if reason is not None:
        raise MachineFailed(f"{reason}\n{keep(folder)}")


def command(kernel: Path, folder: Path, disks: Sequence[Path]) -> list[str]:
    """Spell the machine: one processor is faster than two where each is emulated."""
    argv = [QEMU, "-machine", "pc", "-accel", "tcg,tb-size=512", "-cpu", "qemu64", "-smp", "1", "-m", "512"]
    argv += ["-nodefaults", "-display", "none", "-no-reboot", "-serial", f"file:{folder}/console"]
    argv += ["-kernel", str(kernel), "-initrd", f"{folder}/initramfs", "-append", COMMAND_LINE]
    for tag, path, access in (("root", "/", ",readonly=on"), ("job", folder, "")):
        argv += ["-virtfs", f"local,path={path},mount_tag={tag},security_model=none,multidevs=remap{access}"]
    for disk in disks:
        argv += ["-drive", f"file={disk},format=raw,if=virtio,cache=unsafe,discard=unmap"]
    return argv


def complaint(argv: list[str], folder: Path, timeout_s: float) -> str | None:
    """Run the machine to its end; return what went wrong."""
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s, check=False
        )  # its child is killed when time is up
    except subprocess.TimeoutExpired:
        return f"the machine did not end within {timeout_s:g} s"
    if done.returncode != 0:
        return f"{QEMU}: {done.stderr.strip() or done.returncode}"
    status = folder / "status"
    if not status.exists():
        return "the machine ended before its job did"
    return None if status.read_text().strip() == "0" else f"the job failed with status {status.read_text().strip()}"


def keep(folder: Path) -> str:
    """Save console and output of a failed boot in the cache, and return their last lines."""
    debris = cache() / DEBRIS
    debris.mkdir(exist_ok=True)
    said = [f"(kept in {debris})"]
    for name in ("console", "output"):
        if (folder / name).exists():
            shutil.copyfile(folder / name, debris / name)
            lines = (folder / name).read_text(errors="replace").splitlines()
            said += [f"--- {name}", *lines[-TAIL:]]
    return "\n".join(said)
