"""The suite's ends: a peer that is absent, a ground that cannot be had, a contender that fails."""

from __future__ import annotations

from pathlib import Path

import pytest

from lamella.bench import ground, peers, suite
from lamella.bench.__main__ import main
from lamella.bench.ground import Ext4, Tmpfs
from lamella.bench.measure import MeasureError, Sample, in_python, programs
from lamella.bench.panel import Contender, Panel, run_panel

GONE = (
    peers.Peer("umoci", "umoci", "no-such-umoci"),
    peers.Peer("fastar", "no_such_fastar"),
    peers.Peer("GNU tar", "tar", "tar"),
)


@pytest.fixture
def without_peers(monkeypatch):
    monkeypatch.setattr(peers, "PEERS", GONE)
    monkeypatch.setattr(suite, "make_corpus", lambda *_, **__: pytest.fail("something was measured"))


def test_an_absent_peer_is_named_and_fails(without_peers, capsys):
    assert main(["--quick"]) == 1
    said = capsys.readouterr().err
    assert "umoci (Debian package umoci)" in said
    assert "fastar (PyPI package no_such_fastar)" in said
    assert "GNU tar" not in said


def test_the_command_line_says_so_too(without_peers, capsys):
    from lamella.cli import main as program

    with pytest.raises(SystemExit) as caught:
        program(["bench", "--quick"])
    assert caught.value.code == 1
    assert capsys.readouterr().err.startswith("lamella: error: absent: umoci (Debian package umoci)")


def test_a_program_without_its_file_is_absent(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr("lamella.bench.measure.SBIN", "/nowhere")
    found = " ".join(peers.absent())
    for peer in peers.PEERS:
        assert not peer.program or f"{peer.name} (Debian package {peer.package})" in found


def test_every_package_of_debian_is_installed_for_the_tests():
    script = (Path(__file__).parent.parent / "install_peers.sh").read_text()
    for peer in (*peers.PEERS, *peers.TOOLS):
        assert not peer.program or peer.package == "coreutils" or peer.program in script.split("programs=")[1].split('"')[1]


def test_a_task_of_another_name_is_an_error(monkeypatch, capsys):
    monkeypatch.setattr(peers, "absent", list)
    monkeypatch.setattr(peers, "versions", dict)
    monkeypatch.setattr(suite, "make_corpus", lambda *_, **__: pytest.fail("something was measured"))
    assert main(["--quick", "--panel", "apply gzip", "--panel", "bake"]) == 1
    assert "no task is called 'bake'; there are decode/tmpfs" in capsys.readouterr().err


def quick_sample(_: Path) -> Sample:
    return Sample(1.0, 1.0, 1)


def test_turns(scratch):
    order = []

    def contender(name):
        return Contender(name, lambda folder: order.append((name, folder.is_dir(), list(folder.iterdir()))) or quick_sample(folder))

    panel = Panel("list", "list", Tmpfs(scratch), tuple(contender(name) for name in "abc"))
    runs, complaints = run_panel(panel, 4, lambda _: None)
    assert "".join(name for name, _, _ in order) == "abcbcacababc"
    assert {(there, tuple(inside)) for _, there, inside in order} == {(True, ())}
    assert [(run.contender, len(run.samples)) for run in runs] == [("a", 4), ("b", 4), ("c", 4)]
    assert (complaints, list(scratch.iterdir())) == ([], [])


def test_a_contender_that_fails_is_a_complaint(scratch):
    failing = Contender("tar", lambda folder: programs(["tar", "-xf", str(folder / "nothing")]))
    panel = Panel("apply", "apply", Tmpfs(scratch), (Contender("a", quick_sample), failing))
    runs, complaints = run_panel(panel, 2, lambda _: None)
    assert [run.contender for run in runs] == ["a"]
    assert len(complaints) == 1
    assert complaints[0].startswith("apply/tmpfs: tar: tar: ")


@pytest.mark.parametrize("reason", ["root", "mkfs.ext4"])
def test_a_ground_that_cannot_be_had_is_a_complaint(scratch, monkeypatch, reason):
    if reason == "root":
        monkeypatch.setattr(ground.os, "geteuid", lambda: 1000)
    else:
        monkeypatch.setattr(ground.os, "geteuid", lambda: 0)
        monkeypatch.setattr(ground.Path, "exists", lambda _: True)
        monkeypatch.setattr(ground, "program", lambda name: None if name == "mkfs.ext4" else name)
    panel = Panel("apply", "apply", Ext4(scratch, 1 << 20, 10), (Contender("a", quick_sample),))
    runs, complaints = run_panel(panel, 1, lambda _: None)
    assert runs == []
    assert complaints[0].startswith("apply/ext4: ")
    assert reason in complaints[0]
    assert list(scratch.iterdir()) == []


@pytest.mark.requires("root", "loop", "mkfs.ext4", "mount", "umount", "losetup")
def test_an_ext4_is_new_each_time_and_gone_when_it_fails(scratch):
    place = Ext4(scratch, 16 << 20, 1000)
    for _ in range(2):
        with place.fresh() as folder:
            assert list(folder.iterdir()) == []
            (folder / "x").write_bytes(b"x")
    devices = []

    def fail():
        with place.fresh() as folder:
            devices.append(folder.stat().st_dev)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert devices != [scratch.stat().st_dev]
    assert not any((scratch / "mnt").iterdir())


def test_programs_are_measured_as_a_pipe():
    sample = programs(["head", "-c", "1000000", "/dev/zero"], ["cat"])
    assert sample.wall > 0
    assert sample.rss > 0


def test_a_job_tells_its_time_and_memory(scratch):
    (scratch / "layer.tar").write_bytes(bytes(10240))
    sample = in_python("list", scratch / "layer.tar")
    assert sample.facts == {"entries": 0}
    assert 0 < sample.floor <= sample.rss < 1 << 30
    with pytest.raises(MeasureError, match=r"list: .*no-such\.tar"):
        in_python("list", scratch / "no-such.tar")


@pytest.mark.parametrize(("gzip", "zstd", "there"), [("", "", True), ("oci:x", "", False), ("oci:x", "oci:y", True)])
def test_a_given_image_without_a_twin_has_no_zstd_panel(scratch, gzip, zstd, there):
    part = suite._ImagePart(quick=True, gzip=gzip, zstd=zstd)
    names = [panel.name for panel in part.panels(scratch)]
    assert ("unpack zstd/tmpfs" in names) is there
    assert {"unpack gzip/tmpfs", "unpack gzip/ext4", "squash/tmpfs"} <= set(names)


def test_only_what_is_asked_for_is_made(monkeypatch):
    monkeypatch.setattr(peers, "absent", list)
    monkeypatch.setattr(peers, "versions", dict)
    monkeypatch.setattr(suite, "make_corpus", lambda *_, **__: pytest.fail("a layer was made"))
    monkeypatch.setattr(suite, "image_corpus", lambda *_, **__: pytest.fail("an image was made"))
    monkeypatch.setattr(suite.uppers, "upper_diff", lambda ground, *, quick: Panel("upper diff", "", ground, (Contender("x", quick_sample),)))
    result = suite.run_suite(quick=True, panels=["upper"])
    assert [run.contender for run in result.runs] == ["x"]
    assert (result.corpus, result.image, result.errors) == ({}, {}, [])


def test_a_device_that_somebody_else_holds_is_let_go(scratch, monkeypatch):
    place = Ext4(scratch, 1 << 20, 10)
    monkeypatch.setattr(ground, "PATIENCE", 0.0)
    monkeypatch.setattr(Ext4, "_devices", lambda _: ["/dev/no-such-loop"])
    (scratch / "disk").write_bytes(b"")
    place.release()
    assert not (scratch / "disk").exists()
    assert place._disk.parent == scratch
    assert place._disk.name.startswith("disk.")
