"""The Linux that the machine runs: a Debian kernel and a static busybox, fetched by apt once and kept in a cache folder.

``LAMELLA_CACHE`` names the folder (default ``~/.cache/lamella``). A kernel that lies there is used without asking apt again;
remove its folder to have a newer one.
"""

from __future__ import annotations

import contextlib
import fcntl
import lzma
import os
import re
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

METAPACKAGE = "linux-image-amd64"  # the generic flavour: the cloud flavour has no 9p
MODULES = (
    *("virtio_pci", "virtio_blk", "9pnet_virtio", "9p"),
    *("crc32c_generic", "dm_mod", "dm_thin_pool", "dm_flakey", "dm_zero"),
)
XZ = b"\xfd7zXZ\0"
ELF = b"\x7fELF"
HEADER_SECTORS, PAYLOAD = 0x1F1, 0x248  # of the x86 boot protocol
MODULE_FACT = re.compile(rb"(?:^|\0)(depends|softdep)=([^\0]*)")


@dataclass(frozen=True)
class Kernel:
    """What a machine boots from: an ELF image, the modules in the order they are loaded in, a static busybox."""

    folder: Path

    @property
    def image(self) -> Path:
        """The kernel, unpacked, which qemu starts by its PVH entry: nothing is decompressed by emulated code."""
        return self.folder / "vmlinux"

    @property
    def modules(self) -> list[Path]:
        """The modules; each file's name begins with its place in the order."""
        return sorted((self.folder / "modules").iterdir())

    @property
    def busybox(self) -> Path:
        """The only program of the initramfs."""
        return self.folder / "busybox"


def cache() -> Path:
    """Return the folder for what is fetched, made if it is not there."""
    folder = Path(os.environ.get("LAMELLA_CACHE") or Path.home() / ".cache" / "lamella") / "vm"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def fetch() -> Kernel:
    """Return the newest kernel of the cache, or fetch one; OSError says what is missing."""
    with locked(cache()) as folder:
        found = sorted(folder.glob("linux-image-*"), key=version)
        if not found:
            with tempfile.TemporaryDirectory(prefix="fetch-", dir=folder) as work:
                found = [download(Path(work), folder)]
        return Kernel(found[-1])


def version(folder: Path) -> list[int]:
    """Read the numbers of a folder's name, to sort by."""
    return [int(number) for number in re.findall(r"\d+", folder.name)]


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[Path]:
    """Keep other sessions and workers out of the cache."""
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder


def download(work: Path, folder: Path) -> Path:
    """Fetch the packages into ``work`` and file what is needed of them under the package's name in ``folder``."""
    depends = complain_or_read("apt-cache", "depends", METAPACKAGE, cwd=work)
    package = re.search(r"Depends: (linux-image-\S+)", depends)
    if package is None:
        raise OSError(f"apt knows no {METAPACKAGE}")
    complain_or_read("apt-get", "-q", "download", package[1], "busybox-static", cwd=work)
    for archive in work.glob("*.deb"):
        complain_or_read("dpkg", "-x", archive.name, "root", cwd=work)
    root, made = work / "root", work / "made"
    (made / "modules").mkdir(parents=True)
    (made / "vmlinux").write_bytes(unpacked(next((root / "boot").glob("vmlinuz-*")).read_bytes()))
    shutil.copyfile(root / "bin" / "busybox", made / "busybox")
    for place, path in enumerate(load_order(root, MODULES)):
        shutil.copyfile(path, made / "modules" / f"{place:03}-{path.name}")
    return made.rename(folder / package[1])


def complain_or_read(*argv: str, cwd: Path) -> str:
    """Run a program and return what it prints; OSError with its complaint if it fails."""
    done = subprocess.run(argv, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise OSError(f"{' '.join(argv)}: {done.stderr.strip() or done.returncode}")
    return done.stdout


def unpacked(boot_image: bytes) -> bytes:
    """Take the ELF image out of a bzImage: real-mode sectors, then protected-mode code in which the payload lies."""
    begin, length = struct.unpack_from("<II", boot_image, PAYLOAD)
    begin += ((boot_image[HEADER_SECTORS] or 4) + 1) * 512
    payload = boot_image[begin : begin + length]
    if not payload.startswith(XZ):
        raise OSError(f"the kernel's payload is not xz: it begins with {payload[:6].hex()}")
    elf = lzma.LZMADecompressor().decompress(payload)  # the length of the result stands behind the stream
    if not elf.startswith(ELF):
        raise OSError("the kernel's payload is no ELF image")
    return elf


def load_order(root: Path, names: tuple[str, ...]) -> list[Path]:
    """Return the files of the modules and of all that they need, each behind what it needs.

    A package carries no table of dependencies: each module names its own.
    """
    files = {path.stem.replace("-", "_"): path for path in (root / "lib" / "modules").rglob("*.ko")}
    order: list[Path] = []

    def add(name: str, *, soft: bool = False) -> None:
        path = files.get(name.replace("-", "_"))
        if path is None and not soft:
            raise OSError(f"the kernel package has no module {name}")
        if path is None or path in order:
            return
        for key, value in MODULE_FACT.findall(path.read_bytes()):
            words = value.decode()
            for needed in words.split(",") if key == b"depends" else words.removeprefix("pre:").split():
                if needed and not words.startswith("post:"):
                    add(needed, soft=key == b"softdep")
        order.append(path)

    for name in names:
        add(name)
    return order
