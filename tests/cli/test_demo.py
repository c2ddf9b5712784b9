"""The demonstration agrees with itself, as any user."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import lamella as package
from lamella.testing.listing import compare, listing

CHECKS = 10


def test_demo(lamella):
    ran = lamella("demo", "--size", "3")
    assert (ran.status, ran.err) == (0, "")
    assert ran.out.count("  ok: ") == CHECKS
    assert re.search(rf"^{CHECKS} of {CHECKS} checks passed in [0-9.]+ s$", ran.out, re.MULTILINE)
    [home] = re.findall(r"^working in (\S+)$", ran.out, re.MULTILINE)
    assert not Path(home).exists()


def test_demo_json(lamella):
    ran = lamella("demo", "--size", "2", "--json")
    assert ran.status == 0
    assert list(ran.document) == ["folder", "layers", "checks", "ok", "seconds"]
    assert ran.document["ok"] is True
    assert ran.document["folder"] is None
    assert len(ran.document["layers"]) == 3
    assert len({layer["diff_id"] for layer in ran.document["layers"]}) == 3
    assert ran.document["layers"][1]["entries"] > 60


def test_what_is_kept_is_an_image(lamella, scratch, monkeypatch):
    monkeypatch.setattr("lamella.cli.demo.roomy_folder", lambda nbytes: str(scratch))
    ran = lamella("demo", "--size", "2", "--keep", "--json")
    with package.open_image(f"oci:{ran.document['folder']}/image:demo") as image:
        assert image.verify() == []
        assert [layer.digest for layer in image.layers] == [layer["digest"] for layer in ran.document["layers"]]


def test_a_disagreement_is_a_failure(lamella, monkeypatch):
    changes = package.changes
    monkeypatch.setattr(package, "changes", lambda lower, upper, **options: changes(None, upper, **options))
    ran = lamella("demo", "--size", "2")
    assert ran.status == 1
    assert "FAILED" in ran.out
    assert ran.err.startswith("lamella: error: 7 of 10 checks failed")
    assert ran.err.count("\n") == 1


@pytest.mark.requires("root", "umoci")
def test_umoci_unpacks_what_is_kept_to_the_same_tree(lamella, scratch, monkeypatch):
    monkeypatch.setattr("lamella.cli.demo.roomy_folder", lambda nbytes: str(scratch))
    home = Path(lamella("demo", "--size", "2", "--keep", "--json").document["folder"])
    argv = ["umoci", "unpack", "--image", f"{home}/image:longer", str(home / "bundle")]
    subprocess.run(argv, check=True, capture_output=True)
    assert compare(listing(home / "bundle/rootfs"), listing(home / "tree"), ignore={"dir_mtime", "root"}) == []


@pytest.mark.requires("userns")
def test_demo_of_a_user_without_privilege():
    argv = ["unshare", "--user", "--map-user=1000", "--map-group=1000", sys.executable, "-m", "lamella"]
    done = subprocess.run([*argv, "demo", "--size", "2"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("  ok: ") == CHECKS
