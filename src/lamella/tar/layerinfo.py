"""What a written layer is: its two digests, its sizes, and how an image names it."""

from __future__ import annotations

from dataclasses import dataclass

from lamella.model import DiffID, Digest

__all__ = ["LayerInfo"]


@dataclass(frozen=True, slots=True)
class LayerInfo:
    """A written layer blob of ``size`` bytes, ``uncompressed_size`` bytes of tar with ``entries`` members.

    ``diff_id`` depends on the rows and their content alone, ``digest`` also on ``codec``: library, version and level.
    ``warnings`` name what was left out or altered, as sentences.
    """

    media_type: str
    digest: Digest
    diff_id: DiffID
    size: int
    uncompressed_size: int
    entries: int
    codec: str
    warnings: tuple[str, ...] = ()

    def descriptor(self) -> dict[str, str | int]:
        """Return the blob's descriptor for a manifest (OCI image-spec, descriptor.md "Properties")."""
        return {"mediaType": self.media_type, "digest": str(self.digest), "size": self.size}
