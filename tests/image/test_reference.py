"""References are read as skopeo reads them."""

from __future__ import annotations

from pathlib import Path

import pytest

from lamella.errors import ImageError, ReferenceNotFound
from lamella.image.reference import Reference, check_ref_name, parse_reference


@pytest.mark.parametrize(
    ("text", "path", "tag"),
    [
        ("oci:dir", "dir", None),
        ("oci:/a/b", "/a/b", None),
        ("oci:dir:latest", "dir", "latest"),
        ("oci:dir:localhost/name:v1", "dir", "localhost/name:v1"),  # DIR ends at the first colon
        ("dir", "dir", None),
        ("/a:b/c", "/a:b/c", None),  # a bare path may hold colons
        ("ocix:dir", "ocix:dir", None),
        (Path("oci:dir"), "oci:dir", None),  # a path object is a path
    ],
)
def test_parse(text, path, tag):
    assert parse_reference(text) == Reference(path, tag)


@pytest.mark.parametrize("text", ["", "oci:", "oci::tag", "oci:dir:", "oci:di\0r"])
def test_no_reference(text):
    with pytest.raises(ReferenceNotFound):
        parse_reference(text)


@pytest.mark.parametrize("text", ["docker://alpine", "docker-archive:x.tar", "containers-storage:x", "dir:x"])
def test_another_transport_is_named(text):
    with pytest.raises(ImageError, match=text.partition(":")[0]):
        parse_reference(text)


def test_text_of_a_reference_reads_back():
    for reference in (Reference("d"), Reference("d", "t:x")):
        assert parse_reference(str(reference)) == reference


@pytest.mark.parametrize("tag", ["latest", "v1.0-rc1", "a/b:c@d", "x--y"])
def test_ref_names(tag):
    assert check_ref_name(tag) == tag


@pytest.mark.parametrize("tag", ["", "-x", "x-", "a//b", "a b", "a\n", "ü", "../x", "a---b"])
def test_not_ref_names(tag):
    with pytest.raises(ImageError):
        check_ref_name(tag)
