"""Which of several images is meant: by operating system, architecture and variant (image-index.md, "platform")."""

from __future__ import annotations

import platform as machine
from collections.abc import Sequence

from lamella.errors import ImageError, ReferenceNotFound, UnsupportedMediaType
from lamella.image.documents import INDEX_TYPES, MANIFEST_TYPES, Descriptor, Platform

__all__ = ["choose", "fits", "goarch", "parse_platform", "shown_platform"]

# Names of machines as Go spells them (config.md, "architecture")
_ARCHITECTURES = {
    "x86_64": "amd64", "aarch64": "arm64", "i386": "386", "i486": "386", "i586": "386", "i686": "386", "armv8l": "arm",
    "armv7l": "arm", "armv6l": "arm", "armhf": "arm", "loongarch64": "loong64",
}  # fmt: skip
_DEFAULT_VARIANTS = {"arm64": "v8", "arm": "v7", "amd64": "v1"}  # what no variant stands for


def goarch() -> str:
    """Return this machine's architecture as image documents spell it."""
    return _ARCHITECTURES.get(machine.machine(), machine.machine())


def parse_platform(text: str) -> Platform:
    """Read ``OS/ARCHITECTURE[/VARIANT]``; ImageError for anything else."""
    parts = text.lower().split("/")
    if len(parts) not in (2, 3) or not all(parts):
        raise ImageError(f"not a platform, OS/ARCHITECTURE[/VARIANT]: {text!r}")
    return Platform(_ARCHITECTURES.get(parts[1], parts[1]), parts[0], parts[2] if len(parts) == 3 else None)


def shown_platform(platform: Platform | None) -> str:
    """Return a platform as :func:`parse_platform` reads it, ``any`` for None."""
    if platform is None:
        return "any"
    return "/".join(filter(None, (platform.os, platform.architecture, platform.variant)))


def fits(asked: Platform, offered: Platform) -> bool:
    """Tell whether an image for ``offered`` is one for ``asked``; without a variant every one will do."""
    if (asked.os, asked.architecture) != (offered.os, _ARCHITECTURES.get(offered.architecture, offered.architecture)):
        return False
    default = _DEFAULT_VARIANTS.get(asked.architecture)
    return asked.variant is None or (asked.variant or default) == (offered.variant or default)


def choose(manifests: Sequence[Descriptor], asked: Platform | None, what: str) -> Descriptor:
    """Return the image for ``asked``, or for this machine; of several that fit, the first (image-index.md).

    If none was asked for, the only image there is will do. ReferenceNotFound lists what there is instead,
    UnsupportedMediaType where there is no image at all.
    """
    known = [m for m in manifests if m.media_type in MANIFEST_TYPES | INDEX_TYPES]
    # builders list attestations as manifests for an unknown platform
    images = [m for m in known if m.platform is None or m.platform.os != "unknown"]
    if not images:
        raise UnsupportedMediaType(f"{what} lists no image")
    if asked is None and len({image.digest for image in images}) == 1:
        return images[0]
    wanted = asked or Platform(goarch(), "linux")
    fitting = [m for m in images if m.platform is not None and fits(wanted, m.platform)]
    nested = [m for m in images if m.platform is None and m.media_type in INDEX_TYPES]
    if fitting or len(nested) == 1:
        return (fitting or nested)[0]
    platforms = ", ".join(shown_platform(m.platform) for m in images)
    raise ReferenceNotFound(f"{what} has no image for {shown_platform(wanted)}, only for {platforms}")
