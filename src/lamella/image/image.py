"""Image: what a reference names, for reading, checking, editing and saving."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from lamella.errors import ReferenceNotFound, TarFormatError
from lamella.image.archive import Archive
from lamella.image.blobs import Blobs
from lamella.image.documents import Descriptor, Platform
from lamella.image.edit import append_layer, known_fields
from lamella.image.layer import Layer, chain_ids
from lamella.image.layout import Layout
from lamella.image.parts import HistoryEntry, ImageParts
from lamella.image.platforms import fits, parse_platform, shown_platform
from lamella.image.reference import ARCHIVE, LAYOUT, Reference, parse_reference
from lamella.image.save import SavedImage, save_image
from lamella.image.unpack import UnpackResult, unpack_layers
from lamella.image.verify import Problem, verify_image
from lamella.layer.options import Options
from lamella.layer.policy import Policy, policy_of
from lamella.model import IdMap, Limits, Progress

if TYPE_CHECKING:
    from lamella.layer.algebra import Conflict
    from lamella.layer.explain import Explanation

__all__ = ["HistoryEntry", "Image", "Layer", "chain_ids", "locate", "open_image"]


class Image(ImageParts):
    """An image: manifest, configuration and layers. A context manager.

    ``manifest`` and ``config`` are the JSON documents as stored, unknown fields included; an archive stores no manifest,
    so one is made. ``id`` is the configuration's digest, ``digest`` the manifest's. ``layers``, ``diff_ids`` and
    ``chain_ids`` are tuples, the lowest layer first. An edit returns another Image, which lives on when this one is
    closed; nothing is written before :meth:`save`.
    """

    conflicts: tuple[Conflict, ...] = ()

    def verify(self, *, progress: Callable[[Progress], None] | None = None) -> list[Problem]:
        """Read everything the image is made of and return what is wrong with it: nothing, an empty list.

        See :func:`lamella.image.verify.verify_image`.
        """
        return verify_image(self.blobs, self.descriptor, progress=progress)

    def unpack(
        self,
        root: str | os.PathLike[str],
        *,
        dialect: str = "plain",
        parents: Sequence[str | os.PathLike[str]] = (),
        policy: str | Policy = "spec",
        limits: Limits = Limits(),
        idmap: IdMap | None = None,
        xattrs: Literal["all", "all+selinux", "none"] = "all",
        rootless: bool = False,
        keep_dirlinks: bool = False,
        holes: bool = False,
        sync: Literal["none", "fs", "file"] = "none",
        workers: int | None = None,
        force: bool = False,
        progress: Callable[[Progress], None] | None = None,
    ) -> UnpackResult:
        """Unpack all layers into the absent or empty directory ``root``, size, digest and diff_id of each verified.

        It appears at the end, by one rename, or not at all. The outcome is that of :func:`lamella.apply` for one layer
        after another, whose options these are, but no file that a higher layer hides is written. ``force`` merges into
        a root that is not empty, every layer verified first; errors then carry ``.partial``. FileExistsError without
        it; BlobNotFound, DigestMismatchError; else the errors of :func:`lamella.apply`.
        """
        chosen = policy_of(policy)
        options = Options(dialect, parents, chosen, limits, idmap, xattrs, rootless, keep_dirlinks, holes, sync, workers)
        if not force and os.path.isdir(root) and os.listdir(root):
            raise FileExistsError(errno.ENOTEMPTY, "not empty (force=True merges)", os.fspath(root))
        return unpack_layers(self.layers, root, options, progress)

    def save(
        self,
        reference: str | os.PathLike[str],
        *,
        compression: str | None = None,
        level: int | None = None,
        progress: Callable[[Progress], None] | None = None,
    ) -> SavedImage:
        """Save the image to ``oci:DIR[:TAG]`` or ``docker-archive:FILE[:TAG]``; return what was written.

        A layout keeps its other images, an image that had the tag loses it, and blobs that are there are not written
        again; an archive is replaced by one that holds this image alone. Both hold what they held before until all is
        written. Layers are verified while they are read: size, digest and diff_id.

        ``compression`` None keeps every blob as it is; ``"none"``, ``"gzip"`` or ``"zstd"`` compresses those anew that
        have another one, or all of them where a ``level`` is given too. An archive's layers are uncompressed unless it
        is told otherwise. The configuration, and so :attr:`id`, stays the same; a manifest of Docker's types becomes
        one of OCI's in a layout.

        ValueError, ImageError for a target that cannot be, DigestMismatchError, BlobNotFound (a layer that only its
        publisher keeps may stay there when a layout is written), FormatError and its kin, OSError.
        """
        return save_image(self, reference, compression=compression, level=level, progress=progress)

    def append(
        self,
        layer: Any,
        *,
        created: str | None = None,
        created_by: str | None = None,
        author: str | None = None,
        comment: str | None = None,
        progress: Callable[[Progress], None] | None = None,
    ) -> Image:
        """Return an image with ``layer`` on top of this one's layers.

        ``layer`` is a source as for :func:`lamella.read_layer`: it is read once, to its end. A path is opened now and
        read again by :meth:`save`, anything else is copied to a temporary file; xz and bzip2, which have no media type,
        become gzip. The keywords are the fields of the step in the history (config.md, "history"), ``created`` (RFC
        3339) is the configuration's as well. An image that has layers and no history gets none.

        OSError; FormatError and its kin for a layer that is no tar.
        """
        step = {"created": created, "created_by": created_by, "author": author, "comment": comment}
        return Image(self.reference, *append_layer(self, layer, known_fields(step), progress))

    def squash(
        self,
        *,
        start: int = 0,
        stop: int | None = None,
        compression: str | None = None,
        created: str | None = None,
        created_by: str | None = None,
        comment: str | None = None,
        progress: Callable[[Progress], None] | None = None,
    ) -> Image:
        """Return an image whose layers ``start`` to ``stop`` (as of a slice) are one, which makes the same tree.

        From the lowest layer on, the new one holds no whiteouts: it is what those layers show. ``compression`` is its
        own, that of the topmost of them unless given. Their steps of the history stay, as steps without a layer; the
        one that follows them made it, and the other keywords are its fields.

        ValueError where there is no layer to squash; ConflictError where no single layer can say the same; errors of
        reading, as :meth:`verify` finds them.
        """
        step = {"created": created, "created_by": created_by or f"lamella squash {start}:{'' if stop is None else stop}"}
        from lamella.image.restack import squash_layers  # noqa: PLC0415  (few need the algebra of layers)

        edit = squash_layers(self, slice(start, stop), known_fields({**step, "comment": comment}), compression, progress)
        return Image(self.reference, *edit)

    def rebase(
        self,
        old_base: Image | str | os.PathLike[str],
        new_base: Image | str | os.PathLike[str],
        *,
        conflicts: Literal["error", "keep"] = "error",
        created: str | None = None,
        progress: Callable[[Progress], None] | None = None,
    ) -> Image:
        """Return this image, whose lowest layers are those of ``old_base``, upon ``new_base``: a three-way merge.

        The layers above the base change the new base as they changed the old one; a layer that says the same as before
        keeps its blob. What a layer and the new base both changed, differently, is a conflict: a ConflictError, or with
        ``"keep"`` the layer's wins and the result's :attr:`conflicts` name it. The configuration stays this image's, but
        for platform and history. Bases are images or references.

        ImageError where the image does not stand on ``old_base``; errors of reading, as :meth:`verify` finds them.
        """
        if conflicts not in ("error", "keep"):
            raise ValueError(f"conflicts {conflicts!r}; one of error, keep")
        from lamella.image.restack import rebase_layers  # noqa: PLC0415  (few need the algebra of layers)

        with contextlib.ExitStack() as stack:
            old, new = (b if isinstance(b, Image) else stack.enter_context(open_image(b)) for b in (old_base, new_base))
            step = known_fields({"created": created})
            made = rebase_layers(self, old, new, step, keep=conflicts == "keep", progress=progress)
            image = Image(self.reference, made.blobs, made.descriptor)
        image.conflicts = made.conflicts
        return image

    def explain(
        self, path: str | bytes | os.PathLike[str], *, progress: Callable[[Progress], None] | None = None
    ) -> Explanation:
        """Say where ``path`` comes from: the layer that gives it, what each layer did to it, and by which entry.

        ``source`` of the result and ``label`` of its steps are layers of this image. All layers are read, their content
        passed over. ConflictError, WhiteoutError and UnsafePathError where they cannot be applied one after another;
        errors of reading, as :meth:`verify` finds them.
        """
        from lamella.image.restack import explain_path  # noqa: PLC0415  (few need the algebra of layers)

        return explain_path(self, path, progress)


def open_image(reference: str | os.PathLike[str], *, platform: str | None = None) -> Image:
    """Open ``oci:DIR[:TAG]``, ``docker-archive:FILE[:TAG]``, or the path of an OCI image layout or a docker-archive.

    Without a tag the only image there is meant. ``platform`` is ``"OS/ARCHITECTURE[/VARIANT]"``, this machine's unless
    given; an image that stands alone is opened whatever it is for, unless another platform was asked for. Manifest and
    configuration are read and verified here, layers when they are used. ReferenceNotFound, BlobNotFound, ManifestError,
    DigestMismatchError, UnsupportedMediaType; TarFormatError and its kin for a damaged archive.
    """
    asked = None if platform is None else parse_platform(platform)
    parsed, blobs, descriptor = locate(reference, asked)
    try:
        image = Image(str(parsed), blobs, descriptor)
        if asked is not None:
            _check_platform(image, asked)
    except BaseException:
        blobs.close()
        raise
    return image


def locate(reference: str | os.PathLike[str], platform: Platform | None = None) -> tuple[Reference, Blobs, Descriptor]:
    """Find what ``reference`` names, read no further: where its blobs are and which manifest is meant.

    The reference returned says what a bare path turned out to be. The caller closes the blobs.
    """
    parsed = parse_reference(reference)
    blobs = _open(parsed) if parsed.transport else _open_bare(parsed.path)
    parsed = Reference(parsed.path, parsed.tag, LAYOUT if isinstance(blobs, Layout) else ARCHIVE)
    try:
        return parsed, blobs, blobs.image(parsed.tag, platform)
    except BaseException:
        blobs.close()
        raise


def _open(reference: Reference) -> Layout | Archive:
    return Layout(reference.path) if reference.transport == LAYOUT else Archive(reference.path)


def _open_bare(path: str) -> Layout | Archive:
    """Tell a layout from an archive by what is there."""
    neither = f"neither a directory with oci-layout nor a docker-archive: {path!r}"
    if os.path.exists(os.path.join(path, "oci-layout")):
        return Layout(path)
    if not os.path.isfile(path):
        raise ReferenceNotFound(neither)
    try:
        return Archive(path)
    except (ReferenceNotFound, TarFormatError) as error:
        raise ReferenceNotFound(f"{neither} ({error})") from error


def _check_platform(image: Image, asked: Platform) -> None:
    config = image.config
    if config.get("os") and config.get("architecture"):
        offered = Platform(str(config["architecture"]), str(config["os"]), config.get("variant"))
        if not fits(asked, offered):
            raise ReferenceNotFound(f"{image.reference} is for {shown_platform(offered)}, not {shown_platform(asked)}")
