"""The public face: ``lamella`` offers exactly these names, and they are the things they are called."""

from __future__ import annotations

import dataclasses
import inspect
import re
from pathlib import Path

import pytest

import lamella
from lamella import errors

FUNCTIONS = {
    "apply", "changes", "changes_from_upper", "diff", "diff_from_upper", "open_image", "probe_drivers",
    "read_layer", "scan", "write_layer",
}  # fmt: skip
CLASSES = {
    "ApplyResult", "Change", "ChangeKind", "Changeset", "Entry", "EntryTable", "EntryType", "IdMap", "LayerInfo",
    "LayerReader", "Limits", "Policy", "Progress", "Store", "ThinPool", "Why",
}  # fmt: skip
MODULES = {"algebra", "errors"}
ERRORS = {
    "BlobNotFound", "CodecError", "ConflictError", "DigestMismatchError", "DriverError",
    "DriverUnavailable", "FilesystemError", "FormatError", "ImageError", "LamellaError", "LimitExceededError", "ManifestError",
    "MetadataError", "PoolFullError", "UnrecoveredJournal", "UnsupportedFilesystem",
    "ReferenceNotFound", "SnapshotError", "SnapshotExists", "SnapshotInUse", "SnapshotNotFound", "StoreError",
    "TarFormatError", "TruncatedError", "UnknownDriver", "UnsafePathError", "UnsupportedMediaType", "WhiteoutError",
    "WrongSnapshotKind",
}  # fmt: skip
# keywords (with their defaults) that callers are written against; what stands before them is given by place
KEYWORDS = {
    "apply": {
        "dialect": "plain", "parents": (), "policy": "spec", "limits": lamella.Limits(), "idmap": None, "xattrs": "all",
        "rootless": False, "keep_dirlinks": False, "holes": False, "sync": "none", "expected_diff_id": None,
        "expected_digest": None, "workers": None, "progress": None,
    },
    "changes": {"content": "auto", "xattrs": "all", "dir_mtime": False},
    "changes_from_upper": {"dialect": "overlay"},
    "diff_from_upper": {"dialect": "overlay", "compression": "gzip", "whiteouts": "explicit", "progress": None},
    "diff": {
        "compression": "gzip", "level": None, "whiteouts": "explicit", "clamp_mtime": None, "idmap": None,
        "content": "auto", "xattrs": "all", "dir_mtime": False, "sparse": None, "libarchive_xattr": False,
        "progress": None,
    },
    "read_layer": {"digests": True},
    "open_image": {},
    "scan": {},
}  # fmt: skip
PLACES = {
    "apply": ["source", "root"],
    "changes": ["lower", "upper"],
    "changes_from_upper": ["upper", "parents"],
    "diff_from_upper": ["upper", "out", "parents"],
    "diff": ["lower", "upper", "out"],
    "open_image": ["reference"],
    "probe_drivers": ["root"],
    "read_layer": ["source"],
    "scan": ["path"],
    "write_layer": ["table", "out"],
}


def test_all_is_this_list():
    assert sorted(lamella.__all__) == sorted({*FUNCTIONS, *CLASSES, *MODULES})
    assert set(lamella.__all__) <= set(dir(lamella))


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_a_function_has_a_docstring_and_its_arguments(name):
    function = getattr(lamella, name)
    assert inspect.isfunction(function)
    assert re.match(r"[A-Z].*\.", inspect.getdoc(function) or "", re.DOTALL)
    parameters = list(inspect.signature(function).parameters.values())
    places = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert places == PLACES[name]
    keywords = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    for keyword, default in KEYWORDS.get(name, {}).items():
        assert keywords[keyword] == default


def test_write_layer_wants_its_payload_named():
    payload = inspect.signature(lamella.write_layer).parameters["payload"]
    assert payload.kind is payload.KEYWORD_ONLY
    assert payload.default is payload.empty


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_a_class_is_one_and_has_a_docstring(name):
    value = getattr(lamella, name)
    assert inspect.isclass(value)
    assert value.__name__ == name
    assert inspect.getdoc(value)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("ApplyResult", "digest diff_id media_type compressed_size uncompressed_size entries files bytes_written"),
        ("ApplyResult", "whiteouts opaques warnings"),
        ("LayerInfo", "media_type digest diff_id size uncompressed_size entries codec"),
        ("Change", "kind path before after why"),
        ("Limits", "total_bytes entries ratio pax_bytes xattrs sparse_entries path"),
    ],
)
def test_a_result_has_its_fields(name, fields):
    value = getattr(lamella, name)
    there = {f.name for f in dataclasses.fields(value)} if dataclasses.is_dataclass(value) else set(dir(value))
    assert set(fields.split()) <= there


def test_values_that_are_fixed():
    assert [kind.value for kind in lamella.ChangeKind] == ["add", "modify", "delete"]
    assert "".join(kind.value for kind in lamella.EntryType) == "0123456"
    limits = lamella.Limits()
    assert (limits.total_bytes, limits.entries, limits.ratio, limits.path) == (1 << 40, 20_000_000, 2_000, 4_096)
    assert (limits.pax_bytes, limits.xattrs, limits.sparse_entries) == (1 << 20, 256, 1 << 20)


def test_errors_have_one_root():
    assert sorted(errors.__all__) == sorted(ERRORS)
    for name in ERRORS:
        assert issubclass(getattr(errors, name), errors.LamellaError)
    assert issubclass(errors.FormatError, ValueError)
    assert issubclass(errors.ReferenceNotFound, LookupError)
    assert issubclass(errors.BlobNotFound, LookupError)
    assert issubclass(errors.SnapshotNotFound, LookupError)
    assert issubclass(errors.UnknownDriver, LookupError)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no_such_name"):
        lamella.no_such_name  # noqa: B018


def test_the_version_is_the_distribution_s():
    text = (Path(__file__).resolve().parent.parent / "pyproject.toml").read_text()
    assert re.search(rf'^version = "{re.escape(lamella.__version__)}"$', text, re.MULTILINE)
