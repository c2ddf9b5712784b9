"""The image that is measured: the same each time, layers that hide a third, and a tree that its plan foretells."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

import lamella
from lamella.bench import image_corpus as corpora
from lamella.bench import image_jobs, image_tasks, workloads
from lamella.bench.ground import Tmpfs
from lamella.bench.image_plan import N_LAYERS, OPAQUE, WHITEOUT, Item, Plan
from lamella.bench.measure import MeasureError, alone
from lamella.bench.panel import run_panel
from lamella.bench.stacks import Synthetic
from tests import parts


def items(n_entries=900, seed=3):
    """Return a base of synthetic files."""
    return corpora.synthetic_base(Synthetic(n_entries, 400, seed=seed))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("image")


@pytest.fixture(scope="module")
def corpus(folder):
    return corpora.ImageCorpus(**corpora.make_image(folder, quick=True, base=items()))


def planned(**options):
    return list(Plan(items(**options), big_nbytes=1 << 16).layers())


def test_a_plan_depends_on_its_files_alone():
    assert planned() == planned()
    assert planned() != planned(seed=4)


def test_a_third_of_the_entries_is_hidden_by_every_kind_of_change():
    plan = Plan(items(9_000), big_nbytes=1 << 16)
    layers = list(plan.layers())
    assert len(layers) == N_LAYERS
    names = [item.path for layer in layers for item in layer]
    assert 0.25 < 1 - len(plan.visible) / len(names) < 0.45
    assert any(name.endswith(f"/{OPAQUE}") for name in names)
    assert sum(name.rpartition("/")[2].startswith(WHITEOUT) for name in names) > 60
    deleted = {name.replace(WHITEOUT, "") for name in names if WHITEOUT in name and OPAQUE not in name}
    assert deleted & set(plan.visible), "something comes back"
    assert any(item.kind == "1" for item in plan.visible.values())


def test_no_peer_is_led_astray():
    """A directory stays one; a file never takes a symlink's place; links stay in their layer; parents come first."""
    kinds = {}
    for layer in planned():
        listed = {}
        for item in layer:
            above = item.path.rpartition("/")[0]
            assert not above or listed[above].kind == "5"
            assert item.kind != "1" or listed[item.link].kind == "0"
            listed[item.path] = item
            if WHITEOUT in item.path:
                continue
            before = kinds.setdefault(item.path, item.kind)
            assert item.kind == before
            kinds[item.path] = item.kind


def test_the_image_is_the_same_each_time(corpus, folder, tmp_path):
    again = corpora.make_image(tmp_path, quick=True, base=items())
    for ref, other in ((corpus.gzip, again["gzip"]), (corpus.zstd, again["zstd"])):
        assert [path.name for path, _ in corpora.blobs_of(ref)] == [path.name for path, _ in corpora.blobs_of(other)]


@pytest.mark.parametrize("codec", ["gzip", "zstd"])
def test_both_layouts_are_sound_and_show_what_was_planned(corpus, scratch, codec):
    ref = corpus.gzip if codec == "gzip" else corpus.zstd
    with lamella.open_image(ref) as image:
        assert image.verify() == []
        assert len(image.layers) == corpus.layers == N_LAYERS
        done = image.unpack(scratch / "root", xattrs="none", rootless=os.geteuid() != 0)
    assert done.entries == corpus.entries
    assert workloads.count(scratch / "root") == corpus.visible + 1
    assert corpus.facts()[codec]["bytes"] == sum(path.stat().st_size for path, _ in corpora.blobs_of(ref))


def test_this_machine_s_files_are_walked_in_order_and_within_bounds(tmp_path):
    top = tmp_path / "usr"
    (top / "b").mkdir(parents=True)
    (top / "b" / "file").write_bytes(b"x" * 100)
    (top / "b" / ".wh.file").write_bytes(b"")
    (top / "a").symlink_to("b")
    os.mkfifo(top / "pipe")
    (top / os.fsdecode(b"\xff")).write_bytes(b"")
    found = list(corpora._walk(str(top), 100, 1 << 20))
    assert [(Path(item.path).name, item.kind, item.nbytes) for item in found] == [
        ("usr", "5", 0), ("a", "2", 0), ("b", "5", 0), ("file", "0", 100),
    ]  # fmt: skip
    assert len(list(corpora._walk(str(top), 2, 1 << 20))) == 2


def test_a_file_that_changed_meanwhile_keeps_the_tar_whole(tmp_path):
    (tmp_path / "file").write_bytes(b"short")
    kept = [Item("srv", "5", 0o755), *(Item(f"srv/{n}", "0", nbytes=n, source=str(tmp_path / "file")) for n in (2, 700))]
    with (tmp_path / "tar").open("wb") as out:
        for item in kept:
            corpora._write(item, out, corpora.Pool(1))
        out.write(bytes(1024))
    with lamella.read_layer(tmp_path / "tar") as reader:
        assert [(entry.name, entry.size) for entry in reader] == [("srv", 0), ("srv/2", 2), ("srv/700", 700)]


@pytest.mark.requires("cp")
def test_a_given_image_is_copied_and_counted(corpus, tmp_path):
    given = corpora.given_image(tmp_path, corpus.gzip.rpartition(":")[0], corpus.zstd)
    assert (given.layers, given.entries, given.nbytes) == (corpus.layers, corpus.entries, corpus.nbytes)
    assert (given.given, given.visible, given.source) == (True, 0, "gzip")
    assert given.facts()["gzip"] == {"bytes": corpus.facts()["gzip"]["bytes"], "encoder": "as given"}
    assert corpora.blobs_of(given.zstd)[0][0].is_relative_to(tmp_path)


@pytest.mark.requires("cp")
@pytest.mark.parametrize("ref", ["{}/nowhere", "oci:{}/nowhere:tag"])
def test_an_image_that_is_not_there(tmp_path, ref):
    with pytest.raises(MeasureError, match="nowhere"):
        corpora.given_image(tmp_path, ref.format(tmp_path))


def test_a_tree_that_lacks_something_is_seen(corpus, scratch):
    tally = image_tasks.Tally(corpus)
    (scratch / "root").mkdir()
    with pytest.raises(MeasureError, match=f"made 1 of {corpus.visible + 1} entries"):
        tally.check(scratch / "root")
    with pytest.raises(MeasureError, match="at least"):
        tally.check_more(scratch / "root")


@pytest.mark.requires("root", "unshare")
def test_a_peer_writes_on_its_own_ground_only(scratch):
    """A symlink of an image that leads out is followed by some; then nothing may be there to be overwritten."""
    with tempfile.NamedTemporaryFile(dir="/var/tmp") as victim:
        victim.write(b"mine")
        victim.flush()
        (scratch / "a").mkdir()
        with pytest.raises(MeasureError, match="(?i)read-only"):
            alone("pipes", scratch / "a", 0, f'[[["cp", "/proc/version", "{victim.name}"]]]')
        assert Path(victim.name).read_bytes() == b"mine"
        (scratch / "b").mkdir()
        alone("pipes", scratch / "b", 0, f'[[["cp", "{victim.name}", "{scratch}/copy"]]]')
    assert (scratch / "copy").read_bytes() == b"mine"


def test_the_root_file_system_is_no_ground():
    with pytest.raises(OSError, match="root file system"):
        image_jobs._write_only_to("/")


@pytest.mark.requires("root", "unshare", "umoci", "skopeo", "ctr", "containerd", "igzip", "bsdtar", "tar", "overlay")
def test_everybody_unpacks_it(corpus, scratch):
    runs, complaints = run_panel(image_tasks.unpack_gzip(corpus, Tmpfs(scratch)), 1, print)
    assert complaints == []
    assert len(runs) == 8
    assert all(run.wall > 0 and run.cpu > 0 for run in runs)
    assert parts.mounts_below(scratch) == []
