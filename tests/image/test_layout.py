"""What the reader of layouts accepts, and with what words it refuses the rest."""

from __future__ import annotations

import json
import os

import pytest

from lamella import open_image
from lamella.errors import (
    BlobNotFound,
    CodecError,
    DigestMismatchError,
    ImageError,
    LimitExceededError,
    ManifestError,
    ReferenceNotFound,
    UnsupportedMediaType,
)
from lamella.image.blobs import MAX_DOCUMENT_NBYTES
from lamella.image.layout import Layout
from lamella.image.platforms import goarch
from lamella.model import Digest
from tests.image.layouts import CONFIG, INDEX, LAYER, MANIFEST, HandMade, sha256, tar_of

DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
EMPTY = "application/vnd.oci.empty.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"


@pytest.fixture
def made(scratch):
    return HandMade(scratch / "image").write()


def rewrite(path, **changes):
    """Change members of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("form", ["oci:{}", "oci:{}:latest", "{}"])
def test_open(made, form):
    with open_image(form.format(made.path)) as image:
        assert image.reference.startswith("oci:")
        assert [layer.digest for layer in image.layers] == [sha256(blob) for blob in made.blobs]
        assert [layer.size for layer in image.layers] == [len(blob) for blob in made.blobs]
        assert list(image.diff_ids) == [layer.diff_id for layer in image.layers] == [sha256(tar) for tar in made.tars]
        assert {layer.media_type for layer in image.layers} == {LAYER + "+gzip"}
        assert image.id == image.manifest["config"]["digest"]
        assert image.config["rootfs"]["diff_ids"] == list(image.diff_ids)
        assert sha256(made.stored(image.digest).read_bytes()) == image.digest
    assert open_image(made.path).digest == image.digest


def test_091_chain_ids_of_the_specification(made):
    first, second = (sha256(tar) for tar in made.tars)
    with open_image(made.reference) as image:
        assert list(image.chain_ids) == [first, sha256(f"{first} {second}".encode())]
        assert [layer.id for layer in image.layers] == list(image.chain_ids)


def test_092_two_layers_share_a_diff_id_and_history_has_empty_layers(scratch):
    tar = tar_of({"x": b"same"})
    steps = ["base", None, "again", None]
    history = [{"created_by": step} if step else {"created_by": "ENV", "empty_layer": True} for step in steps]
    made = HandMade(scratch / "image", tars=[tar, tar], config={"history": history}).write()
    with open_image(made.reference) as image:
        assert len(set(image.diff_ids)) == 1
        assert len(set(image.chain_ids)) == 2
        lower, upper = image.layers
        assert [step.layer for step in image.history] == [lower, None, upper, None]
        assert [step.empty_layer for step in image.history] == [False, True, False, True]
        assert image.verify() == []


def test_unknown_fields_are_kept(scratch):
    extra = {"os.version": "1", "x-new": {"deep": [1, None]}}
    made = HandMade(scratch / "image", config=extra, manifest={"annotations": {"k": "v"}, "subject": None}).write()
    with open_image(made.reference) as image:
        assert extra.items() <= image.config.items()
        assert image.manifest["annotations"] == {"k": "v"}


def test_blobs_are_verified_at_their_end(made):
    with open_image(made.reference) as image:
        with image.layers[0].open() as blob:
            assert blob.read() == made.blobs[0]
        made.stored(image.layers[0].digest).write_bytes(made.blobs[0][:-1] + b"\xff")
        with image.layers[0].open() as blob, pytest.raises(DigestMismatchError) as caught:
            blob.read()
        assert caught.value.expected == image.layers[0].digest


def test_a_layer_s_entries(made):
    with open_image(made.reference) as image:
        lower, upper = image.layers
        with lower.reader() as reader:
            assert [(entry.path, reader.read(entry)) for entry in reader] == [(b"a", b"one\n")]
        with upper.reader() as reader:
            assert list(reader.table().paths) == [b"d", b"d/b"]
            assert (reader.digest, reader.diff_id) == (upper.digest, upper.diff_id)
        assert repr(image) == f"<Image {made.reference} {image.digest}>"


def test_a_layer_s_entries_are_verified_at_their_end(scratch):
    diff_ids = [sha256(b"another"), sha256(b"one")]
    made = HandMade(scratch / "image", config={"rootfs": {"type": "layers", "diff_ids": diff_ids}}).write()
    with open_image(made.reference) as image:
        with image.layers[0].reader() as reader, pytest.raises(DigestMismatchError) as caught:
            reader.table()
        assert caught.value.expected == sha256(b"another")
        made.stored(image.layers[1].digest).unlink()
        with pytest.raises(BlobNotFound):
            image.layers[1].reader()


def test_088_a_layer_s_media_type_is_compared_with_its_bytes(scratch):
    made = HandMade(scratch / "image", media_type=LAYER).write()
    [entry] = json.loads((made.path / "index.json").read_text())["manifests"]
    manifest = json.loads(made.stored(entry["digest"]).read_text())
    manifest["layers"][0]["mediaType"] = LAYER + "+zstd"
    manifest["layers"][1]["mediaType"] = "text/plain"
    made.list(made.document(manifest, MANIFEST), "lies")
    with open_image(f"{made.reference}:lies") as image:
        with pytest.raises(CodecError):
            image.layers[0].reader()
        with pytest.raises(UnsupportedMediaType):
            image.layers[1].reader()


def test_a_closed_image_opens_nothing(made):
    with open_image(made.reference) as image:
        pass
    for use in (image.layers[0].open, image.layers[0].reader):
        with pytest.raises(ValueError, match="closed"):
            use()


def test_a_blob_left_open_is_closed_without_a_warning(made):
    before = set(os.listdir("/proc/self/fd"))
    with open_image(made.reference) as image:
        reader = image.layers[0].open()
        reader.read(10)
        del reader
    assert set(os.listdir("/proc/self/fd")) == before


def test_relative_paths_are_bound_when_the_image_is_opened(made, monkeypatch):
    monkeypatch.chdir(made.path.parent)
    image = open_image("oci:image")
    monkeypatch.chdir("/")
    with image.layers[0].open() as blob:
        assert blob.read() == made.blobs[0]


def test_docker_types(scratch):
    made = HandMade(scratch / "image", media_type=DOCKER_LAYER).write("x")
    [entry] = json.loads((made.path / "index.json").read_text())["manifests"]
    stored = made.stored(entry["digest"])
    manifest = json.loads(stored.read_text()) | {"mediaType": DOCKER_MANIFEST}
    manifest["config"]["mediaType"] = DOCKER_CONFIG
    made.list(made.document(manifest, DOCKER_MANIFEST), "docker")
    with open_image(f"{made.reference}:docker") as image:
        assert image.verify() == []


# --- which image is meant


def test_tags(made):
    made.tars = [tar_of({"other": b""})]
    made.write("two")
    with open_image(f"{made.reference}:two") as image:
        assert len(image.layers) == 1
    with open_image(f"{made.reference}:latest") as image:
        assert len(image.layers) == 2
    with pytest.raises(ReferenceNotFound, match="'latest', 'two'"):
        open_image(made.reference)
    with pytest.raises(ReferenceNotFound, match="'three'"):
        open_image(f"{made.reference}:three")


def test_an_image_without_a_tag(scratch):
    made = HandMade(scratch / "image").write(tag=None)
    assert len(open_image(made.reference).layers) == 2
    with pytest.raises(ReferenceNotFound):
        open_image(f"{made.reference}:latest")


def test_one_tag_for_two_images_names_none(made):
    made.tars = made.tars[:1]
    made.write("latest")
    with pytest.raises(ReferenceNotFound, match="2 of 2"):
        open_image(f"{made.reference}:latest")


@pytest.mark.parametrize("path", ["nowhere", "empty", "file", "file/below"])
def test_no_layout(scratch, path):
    (scratch / "empty").mkdir()
    (scratch / "file").touch()
    for reference in (f"oci:{scratch}/{path}", f"{scratch}/{path}"):
        with pytest.raises(ReferenceNotFound, match="oci-layout"):
            open_image(reference)


def other_machine():
    return "s390x" if goarch() != "s390x" else "amd64"


def nested(made, platforms, kind=INDEX):
    """List the layout's image once a platform in an index of its own."""
    [entry] = json.loads((made.path / "index.json").read_text())["manifests"]
    del entry["annotations"]
    manifests = []
    for platform in platforms:
        manifest = json.loads(made.stored(entry["digest"]).read_text())
        manifest["annotations"] = {"platform": str(platform)}
        described = made.document(manifest, MANIFEST)
        manifests.append(described | ({"platform": platform} if platform else {}))
    made.list(made.document({"schemaVersion": 2, "mediaType": kind, "manifests": manifests}, kind), "nested")
    return f"{made.reference}:nested"


@pytest.mark.parametrize("kind", [INDEX, DOCKER_LIST])
def test_a_nested_index_gives_this_machine_s_image(made, kind):
    mine, other = {"os": "linux", "architecture": goarch()}, {"os": "linux", "architecture": other_machine()}
    reference = nested(made, [other, {**mine, "variant": "v1"}, {**mine, "variant": "v2"}], kind)
    with open_image(reference) as image:  # image-index.md: the first that fits
        assert "v1" in image.manifest["annotations"]["platform"]


def test_a_nested_index_with_one_image_and_an_attestation(made):
    reference = nested(made, [{"os": "unknown", "architecture": "unknown"}, {"os": "linux", "architecture": "other"}])
    with open_image(reference) as image:
        assert "other" in image.manifest["annotations"]["platform"]


def test_a_nested_index_without_this_machine(made):
    reference = nested(made, [{"os": "linux", "architecture": other_machine()}, {"os": "windows", "architecture": "x"}])
    with pytest.raises(ReferenceNotFound, match=f"linux/{other_machine()}, windows/x"):
        open_image(reference)


def test_a_nested_index_without_images(made):
    with pytest.raises(UnsupportedMediaType):
        open_image(nested(made, []))


# --- what is malformed


VERSIONS = ['{"imageLayoutVersion": "2.0.0"}', "{}", "[]", "", "{", '{"imageLayoutVersion": 1}']


@pytest.mark.parametrize("version", VERSIONS)
def test_oci_layout_is_checked(made, version):
    (made.path / "oci-layout").write_text(version)
    with pytest.raises(ManifestError, match="oci-layout"):
        open_image(made.reference)


@pytest.mark.parametrize(
    "index",
    [
        b"",
        b"{}",
        b"[" * 100_000,
        b'{"schemaVersion": 1, "manifests": []}',
        b'{"schemaVersion": 2, "manifests": {}}',
        b'{"schemaVersion": 2, "manifests": [], "layers": []}',
        b'{"schemaVersion": 2, "manifests": [{"mediaType": "x", "digest": "y", "size": 1}]}',
        b'\xff{"schemaVersion": 2, "manifests": []}',
    ],
)
def test_index_is_checked(made, index):
    (made.path / "index.json").write_bytes(index)
    with pytest.raises(ManifestError, match=r"index\.json"):
        open_image(made.reference)


def test_null_lists_are_empty(made):
    (made.path / "index.json").write_text('{"schemaVersion": 2, "manifests": null}')
    with pytest.raises(ReferenceNotFound, match="0 of 0"):
        open_image(made.reference)


TRAVERSALS = ["sha256:../../../secret", "sha256:..", "../x:abc", "x:/a", "sha256", ""]
TRAVERSALS += ["sha256:" + "0" * 63, "sha256:" + "A" * 64]


@pytest.mark.parametrize("digest", TRAVERSALS)
def test_no_path_is_made_from_an_unchecked_digest(made, digest):
    (made.path.parent / "secret").write_bytes(b"secret")
    index = json.loads((made.path / "index.json").read_text())
    index["manifests"][0]["digest"] = digest
    (made.path / "index.json").write_text(json.dumps(index))
    with pytest.raises(ManifestError, match="digest"):
        open_image(made.reference)


def test_an_unknown_algorithm_is_refused_before_any_path_is_made(made):
    layout = Layout(str(made.path))
    strange = layout.manifests[0].__class__(MANIFEST, Digest("blake3:abc"), 1)
    with pytest.raises(ImageError, match="blake3"):
        layout.open_blob(strange)


@pytest.mark.parametrize(
    ("manifest", "error"),
    [
        ({"schemaVersion": 1}, ManifestError),
        ({"mediaType": DOCKER_MANIFEST}, ManifestError),  # its descriptor says otherwise
        ({"manifests": []}, ManifestError),  # index and manifest at once
        ({"layers": [{"mediaType": LAYER, "digest": "sha256:x", "size": 1}]}, ManifestError),
        ({"layers": [{"mediaType": LAYER, "digest": sha256(b""), "size": -1}]}, ManifestError),
        ({"layers": [{"mediaType": LAYER, "digest": sha256(b""), "size": 1 << 63}]}, ManifestError),
        ({"layers": []}, ManifestError),  # two diff_ids
        ({"layers": None}, ManifestError),
        ({"config": {"mediaType": EMPTY, "digest": sha256(b"{}"), "size": 2}}, UnsupportedMediaType),
        ({"config": {"mediaType": CONFIG, "digest": sha256(b"gone"), "size": 4}}, BlobNotFound),
        ({"config": {"mediaType": CONFIG, "digest": sha256(b""), "size": 5 << 20}}, LimitExceededError),
    ],
)  # fmt: skip
def test_manifest_is_checked(scratch, manifest, error):
    made = HandMade(scratch / "image", manifest=manifest).write()
    with pytest.raises(error):
        open_image(made.reference)


@pytest.mark.parametrize(
    "config",
    [{"rootfs": None}, {"rootfs": {"type": "layers", "diff_ids": ["sha256:x"]}}, {"history": {}}, {"history": [1]}],
)
def test_config_is_checked(scratch, config):
    made = HandMade(scratch / "image", config=config).write()
    with pytest.raises(ManifestError, match="config sha256:"):
        open_image(made.reference)


def test_documents_are_limited(made):
    (made.path / "index.json").write_bytes(b" " * (MAX_DOCUMENT_NBYTES + 1))
    with pytest.raises(LimitExceededError) as caught:
        open_image(made.reference)
    assert caught.value.limit == "document_bytes"


def test_a_document_larger_than_it_says_is_not_read_on(made):
    digest = json.loads((made.path / "index.json").read_text())["manifests"][0]["digest"]
    with made.stored(digest).open("ab") as file:
        file.truncate(1 << 40)
    with pytest.raises(DigestMismatchError):
        open_image(made.reference)


def test_a_changed_manifest_is_refused(made):
    digest = json.loads((made.path / "index.json").read_text())["manifests"][0]["digest"]
    text = made.stored(digest).read_text()
    made.stored(digest).write_text(text.replace('"schemaVersion": 2', '"schemaVersion":  2')[: len(text)])
    with pytest.raises(DigestMismatchError, match="manifest sha256:"):
        open_image(made.reference)


@pytest.mark.parametrize("where", ["index.json", "blob"])
def test_a_pipe_in_place_of_a_file_stops_nobody(made, where):
    with open_image(made.reference) as image:
        path = made.path / "index.json" if where == "index.json" else made.stored(image.layers[0].digest)
        path.unlink()
        os.mkfifo(path)
        with pytest.raises(OSError, match="not a regular file"):
            open_image(made.reference) if where == "index.json" else image.layers[0].open()


def test_094_a_missing_layer_says_where_its_publisher_keeps_it(scratch):
    nondistributable = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
    made = HandMade(scratch / "image", tars=[tar_of({"w": b""})], media_type=nondistributable).write()
    with open_image(made.reference) as image:
        assert image.verify() == []  # where it is there it is read like any other
    [entry] = json.loads((made.path / "index.json").read_text())["manifests"]
    manifest = json.loads(made.stored(entry["digest"]).read_text())
    manifest["layers"][0]["urls"] = ["https://example.com/layer"]
    made.list(made.document(manifest, MANIFEST), "foreign")
    made.stored(manifest["layers"][0]["digest"]).unlink()
    with open_image(f"{made.reference}:foreign") as image:
        with pytest.raises(BlobNotFound) as caught:
            image.layers[0].open()
        assert caught.value.urls == ("https://example.com/layer",)
        [problem] = image.verify()
        assert problem.kind == "missing"
        assert "https://example.com/layer" in problem.message
