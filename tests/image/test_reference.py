"""References are read as skopeo reads them."""

from __future__ import annotations

from pathlib import Path

import pytest

from lamella.errors import ImageError, ReferenceNotFound
from lamella.image.reference import Reference, archive_name, check_ref_name, familiar_names, parse_reference


@pytest.mark.parametrize(
    ("text", "transport", "path", "tag"),
    [
        ("oci:dir", "oci", "dir", None),
        ("oci:/a/b", "oci", "/a/b", None),
        ("oci:dir:latest", "oci", "dir", "latest"),
        ("oci:dir:localhost/name:v1", "oci", "dir", "localhost/name:v1"),  # DIR ends at the first colon
        ("docker-archive:x.tar", "docker-archive", "x.tar", None),
        ("docker-archive:/x.tar:localhost:5000/name:v1", "docker-archive", "/x.tar", "localhost:5000/name:v1"),
        ("dir", "", "dir", None),
        ("/a:b/c", "", "/a:b/c", None),  # a bare path may hold colons
        ("ocix:dir", "", "ocix:dir", None),
        (Path("oci:dir"), "", "oci:dir", None),  # a path object is a path
    ],
)
def test_parse(text, transport, path, tag):
    assert parse_reference(text) == Reference(path, tag, transport)


@pytest.mark.parametrize("text", ["", "oci:", "oci::tag", "oci:dir:", "oci:di\0r", "docker-archive:", "docker-archive:x:"])
def test_no_reference(text):
    with pytest.raises(ReferenceNotFound):
        parse_reference(text)


@pytest.mark.parametrize("text", ["docker://alpine", "oci-archive:x.tar", "containers-storage:x", "dir:x"])
def test_another_transport_is_named(text):
    with pytest.raises(ImageError, match=text.partition(":")[0]):
        parse_reference(text)


def test_text_of_a_reference_reads_back():
    for reference in (Reference("d"), Reference("d", "t:x"), Reference("f", "n:t", "docker-archive"), Reference("p", None, "")):
        assert parse_reference(str(reference)) == reference


@pytest.mark.parametrize("tag", ["latest", "v1.0-rc1", "a/b:c@d", "x--y"])
def test_ref_names(tag):
    assert check_ref_name(tag) == tag


@pytest.mark.parametrize("tag", ["", "-x", "x-", "a//b", "a b", "a\n", "ü", "../x", "a---b"])
def test_not_ref_names(tag):
    with pytest.raises(ImageError):
        check_ref_name(tag)


@pytest.mark.parametrize(
    ("text", "name"),
    [("app", "app:latest"), ("app:v1", "app:v1"), ("localhost:5000/a/b:v1", "localhost:5000/a/b:v1"), ("a__b/c-d", "a__b/c-d:latest")],
)
def test_names_in_an_archive(text, name):
    assert archive_name(text) == name


@pytest.mark.parametrize("text", ["", "App", "a:b:c", "a/", "a:-x", "a@sha256:0", "a b"])
def test_not_names_in_an_archive(text):
    with pytest.raises(ImageError):
        archive_name(text)


def test_a_name_with_and_without_what_docker_adds():
    assert familiar_names("app") == {"app:latest", "docker.io/library/app:latest"} == familiar_names("docker.io/library/app")
    assert familiar_names("me/app:1") == {"me/app:1", "docker.io/me/app:1"} == familiar_names("docker.io/me/app:1")
    assert familiar_names("localhost/app:1") == {"localhost/app:1"}
    assert familiar_names("Strange") == {"Strange"}
