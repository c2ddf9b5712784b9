"""Whatever an archive or layout holds, it is read or refused in the package's own words, and no file beside it is touched."""

from __future__ import annotations

import contextlib
import io
import json
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamella import open_image
from lamella.errors import LamellaError
from tests.conftest import fresh
from tests.image.archives import BASE, UPPER, Members, archive, config_of, old_archive
from tests.image.layouts import sha256

PLAIN = archive(BASE, UPPER, tags=["app:v1"]).data()
OLD = old_archive(BASE, UPPER).data()
with tarfile.open(fileobj=io.BytesIO(PLAIN)) as plain:
    HEADERS = [m.offset for m in plain]
NAMES = ["manifest.json", "c.json", "a.tar", "d/layer.tar", "../up", "/abs", ".", "d", "repositories", "x/../a.tar", "\u00e4"]

names = st.sampled_from(NAMES) | st.text(max_size=8)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.text(max_size=8) | st.sampled_from([*NAMES, sha256(BASE), "sha256:x"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["Config", "Layers", "RepoTags", "rootfs", "diff_ids", "type", "history"]), inner, max_size=5),
    max_leaves=20,
)  # fmt: skip
items = st.fixed_dictionaries(
    {"Config": names, "Layers": st.lists(names, max_size=4)}, optional={"RepoTags": values, "LayerSources": values}
)
manifests = st.lists(items, max_size=3) | values


def use(path):
    """Do all that reading does; errors of the package are answers."""
    before = {p: p.read_bytes() for p in path.parent.rglob("*") if p.is_file()}
    with contextlib.suppress(LamellaError, OSError), open_image(path) as image:
        image.verify()
        assert image.history is not None
        with contextlib.suppress(LamellaError):
            image.save(f"oci:{path.parent}/saved")
        for layer in image.layers:
            with contextlib.suppress(LamellaError), layer.reader() as reader:
                reader.table()
    assert {p: p.read_bytes() for p in before} == before


@given(st.data())
@pytest.mark.parametrize("whole", [PLAIN, OLD], ids=["manifest", "repositories"])
def test_bytes_changed_anywhere(home, whole, data):
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 6))):
        header = data.draw(st.sampled_from(HEADERS))
        at = data.draw(st.integers(0, len(damaged) - 1) | st.integers(header, header + 511))
        damaged[at % len(damaged)] = data.draw(st.integers(0, 255))
    del damaged[data.draw(st.integers(0, len(damaged)) | st.just(len(damaged))) :]
    for folder in fresh(home):
        (folder / "x.tar").write_bytes(damaged)
        use(folder / "x.tar")


def members() -> st.SearchStrategy[list[tuple[str, bytes, str]]]:
    """Draw names of files (with content), links and folders."""
    kinds = st.sampled_from([tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE])
    return st.lists(st.tuples(st.sampled_from(NAMES), kinds, st.sampled_from(NAMES)), max_size=8)


@given(members(), manifests, values, st.sampled_from([BASE, UPPER, b"", b"\x1f\x8b", b"x" * 600]))
def test_any_documents_and_members(home, listed, manifest, config, layer):
    made = Members().add("c.json", config_of(BASE) if isinstance(config, int) else json.dumps(config).encode())
    made.add("a.tar", layer)
    for name, kind, target in listed:
        made.add(name, layer, kind, target)
    made.document("manifest.json", manifest)
    for folder in fresh(home):
        (folder / "secret").write_bytes(BASE)
        use(made.write(folder / "x.tar"))


@given(
    st.dictionaries(names, st.dictionaries(names, st.sampled_from(["1" * 64, "2" * 64, "x"]), max_size=3) | values, max_size=3),
    values,
    values,
)
def test_any_old_documents(home, repositories, one, two):
    made = Members().document("repositories", repositories)
    for ident, value in (("1" * 64, one), ("2" * 64, two)):
        document = {"id": ident, "parent": "2" * 64 if ident[0] == "1" else None, "container_config": value, "config": value}
        made.document(f"{ident}/json", document if isinstance(value, dict) else value).add(f"{ident}/layer.tar", BASE)
    for folder in fresh(home):
        use(made.write(folder / "x.tar"))
