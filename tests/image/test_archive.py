"""What the reader of docker-archives accepts, and with what words it refuses the rest."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import tarfile

import pytest
import zstandard

from lamella import open_image
from lamella.errors import (
    BlobNotFound,
    DigestMismatchError,
    FormatError,
    LimitExceededError,
    ManifestError,
    ReferenceNotFound,
    TarFormatError,
    TruncatedError,
    UnsafePathError,
    UnsupportedMediaType,
)
from lamella.image import members
from lamella.image.archive import Archive
from lamella.image.blobs import MAX_DOCUMENT_NBYTES
from lamella.image.verify import verify_image
from lamella.model import Limits
from tests.image.archives import BASE, UPPER, Members, archive, config_of, item, old_archive
from tests.image.layouts import LAYER, sha256, tar_of


def opened(path, tag=None):
    return open_image(f"docker-archive:{path}" + (f":{tag}" if tag else ""))


def check(image, *tars):
    """The image has these layers, and nothing is wrong."""
    assert list(image.diff_ids) == [sha256(tar) for tar in tars]
    for layer, tar in zip(image.layers, tars, strict=True):
        with layer.reader() as reader, tarfile.open(fileobj=io.BytesIO(tar)) as plain:
            assert [os.fsdecode(path) for path in reader.table().paths] == plain.getnames()
    assert image.verify() == []


@pytest.mark.parametrize("form", ["docker-archive:{}", "docker-archive:{}:app:v1", "docker-archive:{}:v1", "{}"])
def test_open(scratch, form):
    path = archive(BASE, UPPER, tags=["app:v1"]).write(scratch / "x.tar")
    with open_image(form.format(path)) as image:
        check(image, BASE, UPPER)
        assert image.reference.startswith("docker-archive:")
        assert image.id == sha256(config_of(BASE, UPPER))
        assert image.config == json.loads(config_of(BASE, UPPER))
        assert {layer.media_type for layer in image.layers} == {LAYER}
        assert [layer.digest for layer in image.layers] == list(image.diff_ids)
        assert [layer.size for layer in image.layers] == [len(BASE), len(UPPER)]
        assert image.manifest["config"]["digest"] == image.id
        with image.layers[1].open() as blob:
            assert blob.read() == UPPER


def test_layers_lie_where_they_are(scratch):
    path = archive(BASE, UPPER).write(scratch / "x.tar")
    with opened(path) as image:
        for layer, tar in zip(image.layers, (BASE, UPPER), strict=True):
            with layer.source() as source:
                assert path.read_bytes()[source.begin :][: source.size] == tar
                assert os.pread(source.fd, source.size, source.begin) == tar
    assert os.listdir(scratch) == ["x.tar"]


@pytest.mark.parametrize(
    "compress", [gzip.compress, bz2.compress, lzma.compress, zstandard.compress], ids=["gzip", "bzip2", "xz", "zstd"]
)
def test_a_compressed_archive(scratch, compress):
    path = scratch / "x.tar.z"
    path.write_bytes(compress(archive(BASE, UPPER).data()))
    with open_image(path) as image:
        check(image, BASE, UPPER)
    assert os.listdir(scratch) == ["x.tar.z"]


@pytest.mark.parametrize(
    ("compress", "suffix"), [(gzip.compress, "+gzip"), (zstandard.compress, "+zstd")], ids=["gzip", "zstd"]
)
def test_compressed_layers(scratch, compress, suffix):
    blobs = [compress(tar) for tar in (BASE, UPPER)]
    with opened(archive(BASE, UPPER, blobs=blobs).write(scratch / "x.tar")) as image:
        check(image, BASE, UPPER)
        assert [layer.digest for layer in image.layers] == [sha256(blob) for blob in blobs]
        assert {layer.media_type for layer in image.layers} == {LAYER + suffix}


def test_a_compression_that_no_type_stands_for(scratch):
    path = archive(BASE, blobs=[lzma.compress(BASE)]).write(scratch / "x.tar")
    with pytest.raises(UnsupportedMediaType, match="xz"):
        opened(path)


def test_layers_that_are_links_to_one_file(scratch):
    config = config_of(BASE, UPPER, BASE)
    made = Members().add("one/layer.tar", BASE).add("two/layer.tar", UPPER)
    made.symlink("three/layer.tar", "../one/layer.tar").symlink("four.tar", "/three/./layer.tar")
    made.add("five.tar", kind=tarfile.LNKTYPE, target="two/layer.tar")
    made.add(f"{sha256(config)[7:]}.json", config)
    made.document("manifest.json", [item(config, ["./one/layer.tar", "five.tar", "four.tar"])])
    with opened(made.write(scratch / "x.tar")) as image:
        check(image, BASE, UPPER, BASE)
        assert image.layers[0].id != image.layers[2].id


@pytest.mark.parametrize("compress", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_docker_25_has_blobs_by_digest_and_a_layout_beside(scratch, compress):
    blobs = [compress(tar) for tar in (BASE, UPPER)]
    config = config_of(BASE, UPPER)
    made = Members().add("blobs", kind=tarfile.DIRTYPE).document("oci-layout", {"imageLayoutVersion": "1.0.0"})
    for blob in (*blobs, config):
        made.add(f"blobs/sha256/{sha256(blob)[7:]}", blob)
    names = [f"blobs/sha256/{sha256(blob)[7:]}" for blob in (config, *blobs)]
    made.document("index.json", {"schemaVersion": 2, "manifests": []})
    made.document("manifest.json", [{"Config": names[0], "RepoTags": ["app:v1"], "Layers": names[1:], "LayerSources": {}}])
    with opened(made.write(scratch / "x.tar")) as image:
        check(image, BASE, UPPER)
        assert image.id == sha256(config)
        assert [layer.digest for layer in image.layers] == [sha256(blob) for blob in blobs]


def test_094_a_layer_that_only_its_publisher_keeps(scratch):
    config = config_of(BASE, UPPER)
    foreign = {"mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "size": 5}
    foreign |= {"digest": sha256(b"blob"), "urls": ["https://example.com/base"]}
    listed = item(config, ["base.tar", "upper.tar"]) | {"LayerSources": {sha256(BASE): foreign}}
    made = Members().add("upper.tar", UPPER).add(f"{sha256(config)[7:]}.json", config).document("manifest.json", [listed])
    with opened(made.write(scratch / "x.tar")) as image:
        with pytest.raises(BlobNotFound) as caught:
            image.layers[0].open()
        assert caught.value.urls == ("https://example.com/base",)
        assert [problem.kind for problem in image.verify()] == ["missing"]
    with opened(made.add("base.tar", BASE).write(scratch / "y.tar")) as image:
        check(image, BASE, UPPER)
        assert image.layers[0].media_type == "application/vnd.oci.image.layer.nondistributable.v1.tar"


# --- archives before manifest.json


@pytest.mark.parametrize("tag", [None, "app:old", "old"])
def test_an_old_archive(scratch, tag):
    with opened(old_archive(BASE, UPPER).write(scratch / "x.tar"), tag) as image:
        check(image, BASE, UPPER)
        assert [step.created_by for step in image.history] == ["/bin/sh -c step 0", "/bin/sh -c step 1"]
        assert image.history[1].author == "me"
        assert image.config["config"] == {"Env": ["A=b"]}
        assert image.config["created"] == "2014-01-02T00:00:00Z"
        assert not {"id", "parent", "Size"} & set(image.config)


def test_old_layers_that_are_compressed(scratch):
    made = old_archive(gzip.compress(BASE), UPPER)
    with opened(made.write(scratch / "x.tar")) as image:
        check(image, BASE, UPPER)


def test_an_old_archive_whose_layer_is_its_own_ancestor(scratch):
    made = old_archive(BASE)
    made.document(f"{1:064x}/json", {"id": f"{1:064x}", "parent": f"{2:064x}"})
    made.document(f"{2:064x}/json", {"id": f"{2:064x}", "parent": f"{1:064x}"})
    with pytest.raises(ManifestError, match="its own parent"):
        opened(made.write(scratch / "x.tar"))


@pytest.mark.parametrize("parent", ["../x", "1", 7])
def test_an_old_archive_with_an_id_that_is_none(scratch, parent):
    made = old_archive(BASE).document(f"{1:064x}/json", {"parent": parent})
    with pytest.raises(ManifestError):
        opened(made.write(scratch / "x.tar"))


def test_an_old_archive_that_lacks_something(scratch):
    with pytest.raises(BlobNotFound):
        opened(Members().document("repositories", {"app": {"x": "1" * 64}}).write(scratch / "x.tar"))
    made = Members().document("repositories", {"app": {"x": "1" * 64}}).document("1" * 64 + "/json", {})
    with pytest.raises(BlobNotFound):
        opened(made.write(scratch / "y.tar"))


# --- which image is meant


@pytest.fixture
def two(scratch):
    made = Members().add("base.tar", BASE).add("upper.tar", UPPER)
    listed = []
    for config, layers, tags in (
        (config_of(BASE), ["base.tar"], ["app:v1", "docker.io/library/app:latest", "other/app:v3"]),
        (config_of(BASE, UPPER), ["base.tar", "upper.tar"], ["app:v2", "localhost:5000/me/app:v3"]),
    ):
        made.add(f"{sha256(config)[7:]}.json", config)
        listed.append(item(config, layers, tags))
    return made.document("manifest.json", listed).write(scratch / "two.tar")


@pytest.mark.parametrize(
    ("tag", "n_layers"),
    [
        ("app:v1", 1), ("app:v2", 2), ("v1", 1), ("v2", 2), ("app", 1), ("docker.io/library/app:v2", 2), ("latest", 1),
        ("docker.io/other/app:v3", 1), ("localhost:5000/me/app:v3", 2), ("@0", 1), ("@1", 2),
    ],
)  # fmt: skip
def test_tags(two, tag, n_layers):
    with opened(two, tag) as image:
        assert len(image.layers) == n_layers


@pytest.mark.parametrize("tag", [None, "v3", "app:v3", "nobody", "@2", "@x", "me/app:v3"])
def test_a_tag_that_names_none_or_two(two, tag):
    with pytest.raises(ReferenceNotFound, match="'app:v1', 'docker.io/library/app:latest'"):
        opened(two, tag)


def test_an_archive_without_images(scratch):
    for made in (Members().add("x"), Members().document("manifest.json", [])):
        with pytest.raises(ReferenceNotFound):
            opened(made.write(scratch / "x.tar"))


@pytest.mark.parametrize("path", ["nowhere", "folder", "text"])
def test_a_bare_path_that_is_neither(scratch, path):
    (scratch / "folder").mkdir()
    (scratch / "text").write_text("text\n" * 1000)
    with pytest.raises(ReferenceNotFound, match="oci-layout nor a docker-archive"):
        open_image(scratch / path)


# --- what is hostile or damaged

MANIFESTS = [
    b"",
    b'[{"\x80": 1}]',
    b"{}",
    b"[1]",
    b"[" * 100_000,
    b'[{"Config": 1, "Layers": []}]',
    b'[{"Layers": []}]',
    b"\xff",
    b"[{}]",
]
MANIFESTS += [b'[{"Config": "c", "Layers": [1]}]', b'[{"Config": "c", "Layers": [], "RepoTags": "x"}]']


@pytest.mark.parametrize("data", MANIFESTS)
def test_manifest_is_checked(scratch, data):
    with pytest.raises(ManifestError, match=r"manifest\.json"):
        opened(Members().add("manifest.json", data).write(scratch / "x.tar"))


@pytest.mark.parametrize("name", ["manifest.json", "config"])
def test_documents_are_limited(scratch, name):
    made = Members()
    if name == "config":
        made.document("manifest.json", [{"Config": "config", "Layers": []}])
    made.add(name, b" " * (MAX_DOCUMENT_NBYTES + 1))
    with pytest.raises(LimitExceededError) as caught:
        opened(made.write(scratch / "x.tar"))
    assert caught.value.limit == "document_bytes"


def test_members_are_limited(scratch, monkeypatch):
    made = Members()
    for i in range(50):
        made.add(f"m{i}")
    monkeypatch.setattr(members, "_LIMITS", Limits(entries=49))
    with pytest.raises(LimitExceededError) as caught:
        opened(made.write(scratch / "x.tar"))
    assert caught.value.limit == "entries"


def linked(scratch, target, **more):
    """Write an archive whose only layer is a link to ``target``."""
    config = config_of(BASE)
    made = Members().add("c.json", config).symlink("d/layer.tar", target).add("base.tar", BASE)
    for name, to in more.items():
        made.symlink(name, to)
    made.document("manifest.json", [{"Config": "c.json", "Layers": ["d/layer.tar"]}])
    return made.write(scratch / "x.tar")


@pytest.mark.parametrize("target", ["../../etc/passwd", "../..", "/../x", "../a/../../b"])
def test_a_layer_that_leads_out_of_the_archive(scratch, target):
    (scratch / "passwd").write_bytes(BASE)
    with pytest.raises(UnsafePathError) as caught:
        opened(linked(scratch, target))
    assert caught.value.entry == b"d/layer.tar"
    assert caught.value.target == target.encode()


def test_a_link_to_a_path_of_this_machine_is_a_name_in_the_archive(scratch):
    secret = scratch / "secret"
    secret.write_bytes(BASE)
    with opened(linked(scratch, str(secret))) as image, pytest.raises(BlobNotFound):
        image.layers[0].open()


@pytest.mark.parametrize("target", ["layer.tar", "../loop"])
def test_links_in_a_circle(scratch, target):
    with pytest.raises(UnsafePathError, match="circle"):
        opened(linked(scratch, target, loop="d/layer.tar"))


@pytest.mark.parametrize("where", ["Config", "Layers"])
@pytest.mark.parametrize("name", ["../x", "/../x", "a/../../x", ".."])
def test_a_name_that_leads_out_of_the_archive(scratch, where, name):
    made = Members().add("c.json", config_of(BASE)).add("base.tar", BASE)
    listed = {"Config": "c.json", "Layers": ["base.tar"]} | {where: name if where == "Config" else [name]}
    with pytest.raises(UnsafePathError):
        opened(made.document("manifest.json", [listed]).write(scratch / "x.tar"))


@pytest.mark.parametrize("name", ["\ud800", "\x00", "ü"])
def test_a_name_that_is_nowhere(scratch, name):
    made = Members().add("c.json", config_of(BASE)).document("manifest.json", [{"Config": "c.json", "Layers": [name]}])
    path = made.write(scratch / "x.tar")
    try:
        with opened(path) as image:
            assert [problem.kind for problem in image.verify()] == ["missing"]
    except FormatError as error:  # a JSON parser may refuse half a character
        assert name == "\ud800", error


@pytest.mark.parametrize("kind", [tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_a_layer_that_is_no_file(scratch, kind):
    made = Members().add("c.json", config_of(BASE)).add("base.tar", kind=kind)
    with pytest.raises(ManifestError, match="no plain file"):
        opened(made.document("manifest.json", [{"Config": "c.json", "Layers": ["base.tar"]}]).write(scratch / "x.tar"))


def test_037_of_two_members_of_one_name_the_last_counts(scratch):
    made = archive(BASE)
    made.add(f"{sha256(BASE)[7:]}.tar", UPPER)
    with opened(made.write(scratch / "x.tar")) as image:
        assert [problem.kind for problem in image.verify()] == ["digest"]
    made.add(f"{sha256(BASE)[7:]}.tar", BASE)
    with opened(made.write(scratch / "y.tar")) as image:
        check(image, BASE)
    made.document("manifest.json", [])
    with pytest.raises(ReferenceNotFound):
        opened(made.write(scratch / "z.tar"))


@pytest.mark.parametrize("n_left", [511, 700, 1500])
def test_a_truncated_archive(scratch, n_left):
    path = archive(BASE, UPPER).write(scratch / "x.tar")
    os.truncate(path, n_left)
    with pytest.raises((TruncatedError, TarFormatError)):
        opened(path)
    with pytest.raises((TruncatedError, ReferenceNotFound)):
        open_image(path)


def test_an_archive_that_shrinks_while_it_is_open(scratch):
    path = archive(BASE, UPPER).write(scratch / "x.tar")
    with opened(path) as image:
        os.truncate(path, 1024)
        assert {problem.kind for problem in image.verify()} <= {"size", "truncated", "digest"}
        with pytest.raises(DigestMismatchError), image.layers[1].open() as blob:
            blob.readall()


def test_a_missing_layer_is_found_by_verify(scratch):
    config = config_of(BASE, UPPER)
    made = Members().add("c.json", config).add("upper.tar", UPPER)
    made.document("manifest.json", [{"Config": "c.json", "Layers": ["base.tar", "upper.tar"]}])
    with opened(made.write(scratch / "x.tar")) as image:
        assert [(problem.kind, problem.subject.split()[1]) for problem in image.verify()] == [("missing", "0")]


def test_a_missing_config(scratch):
    with pytest.raises(BlobNotFound, match=r"c\.json"):
        opened(Members().document("manifest.json", [{"Config": "c.json", "Layers": []}]).write(scratch / "x.tar"))


@pytest.mark.parametrize("layers", [["a.tar"], ["a.tar"] * 3])
def test_another_number_of_layers_than_diff_ids(scratch, layers):
    made = Members().add("c.json", config_of(BASE, BASE)).add("a.tar", BASE)
    path = made.document("manifest.json", [{"Config": "c.json", "Layers": layers}]).write(scratch / "x.tar")
    with pytest.raises(ManifestError, match="diff_ids"):
        opened(path)
    blobs = Archive(str(path))
    assert [problem.kind for problem in verify_image(blobs, blobs.image(None))] == ["document"]


def test_090_a_wrong_diff_id(scratch):
    blob = gzip.compress(BASE)
    made = Members().add("c.json", config_of(UPPER)).add("a.tar", blob)
    with opened(made.document("manifest.json", [{"Config": "c.json", "Layers": ["a.tar"]}]).write(scratch / "x.tar")) as image:
        assert [problem.kind for problem in image.verify()] == ["diff_id"]
        with pytest.raises(DigestMismatchError), image.layers[0].reader() as reader:
            reader.table()


@pytest.mark.parametrize("name", ["{}.json", "sha256:{}", "blobs/sha256/{}"])
def test_a_config_that_is_not_what_its_name_says(scratch, name):
    name = name.format(sha256(b"another")[7:])
    made = Members().add(name, config_of(BASE)).add("a.tar", BASE)
    path = made.document("manifest.json", [{"Config": name, "Layers": ["a.tar"]}]).write(scratch / "x.tar")
    with pytest.raises(DigestMismatchError):
        opened(path)
    blobs = Archive(str(path))
    assert [problem.kind for problem in verify_image(blobs, blobs.image(None))] == ["digest"]


def test_a_pipe_stops_nobody(scratch):
    os.mkfifo(scratch / "x.tar")
    with pytest.raises(OSError, match="not a regular file"):
        opened(scratch / "x.tar")


def test_nothing_stays_open(scratch):
    path = archive(BASE, UPPER).write(scratch / "x.tar")
    (scratch / "y.tar.gz").write_bytes(gzip.compress(path.read_bytes()))
    before = set(os.listdir("/proc/self/fd"))
    for name in ("x.tar", "y.tar.gz"):
        with open_image(scratch / name) as image:
            blob = image.layers[0].open()
            reader = image.layers[1].reader()
            blob.read(10)
            next(reader)
        del blob, reader
        with pytest.raises(ValueError, match="closed"):
            image.layers[0].open()
    assert set(os.listdir("/proc/self/fd")) == before


def test_a_layer_in_the_archive_s_middle_may_be_empty(scratch):
    nothing = tar_of({})
    with opened(archive(BASE, nothing, b"", UPPER).write(scratch / "x.tar")) as image:
        assert list(image.diff_ids)[2] == sha256(b"")
        assert image.verify() == []
