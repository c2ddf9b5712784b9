"""The suite's own machinery can fail: a missing part, a forgotten mount, a left folder are seen."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import parts

ROOT = Path(__file__).resolve().parent.parent

SKIPS = {
    "test_marked.py": "@pytest.mark.requires('no-such-program')\ndef test_marked():\n    pass\n",
    "test_whim.py": "def test_whim():\n    pytest.skip('a whim')\n",
    "test_module.py": "pytest.skip('all of it', allow_module_level=True)\n",
    "test_known.py": "@pytest.mark.xfail(reason='known')\ndef test_known():\n    assert False\n",
}
LEAVES_A_FOLDER = "def test_it(home):\n    print('WHERE', home)\n    (home / 'left').mkdir()\n    assert 0, 'shown'\n"
HARD_TO_REMOVE = """
def test_it(scratch):
    (scratch / 'shut' / 'in').mkdir(parents=True)
    (scratch / 'shut').chmod(0)
    fd = os.open(scratch, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir('d', dir_fd=fd)
        deeper = os.open('d', os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = deeper
    os.close(fd)
"""
LEAVES_A_MOUNT = """
def test_it(scratch):
    (scratch / 'm').mkdir()
    subprocess.run(['mount', '-t', 'tmpfs', 'none', scratch / 'm'], check=True)
    print('WHERE', scratch)

def test_ext4(ext4, ext4_scratch, home):
    assert set(os.listdir(ext4)) == {'lost+found', ext4_scratch.name}
    print('WHERE', home)
"""


@pytest.fixture
def inner(scratch: Path):
    """Give a function that runs test files (name to text) as a suite of their own, with our conftest and settings."""
    for name in ("pyproject.toml", "tests/conftest.py", "tests/parts.py"):
        target = scratch / name
        target.parent.mkdir(exist_ok=True)
        target.symlink_to(ROOT / name)

    def run(files: dict[str, str], *, require_all: bool = False) -> subprocess.CompletedProcess[str]:
        for name, text in files.items():
            (scratch / "tests" / name).write_text(f"import os, subprocess\nimport pytest\n{text}")
        env = {k: v for k, v in os.environ.items() if k not in {"CI", "LAMELLA_REQUIRE_ALL"} and "XDIST" not in k}
        env |= {"LAMELLA_REQUIRE_ALL": "1"} if require_all else {}
        argv = [sys.executable, "-m", "pytest", "-q", "-rA", "-p", "no:cacheprovider", "--rootdir", ".", "tests"]
        return subprocess.run(argv, cwd=scratch, env=env, capture_output=True, text=True, check=False)

    return run


def where(done: subprocess.CompletedProcess[str]) -> list[Path]:
    """Return the folders that the inner tests printed."""
    return [Path(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("WHERE")]


def test_a_missing_part_skips_by_name(inner):
    done = inner(SKIPS)
    assert done.returncode == 0
    assert "3 skipped, 1 xfailed" in done.stdout
    assert "requires no-such-program" in done.stdout


def test_no_skip_where_every_part_was_promised(inner):
    skips = dict(SKIPS)
    module = {"test_module.py": skips.pop("test_module.py")}
    done = inner(skips, require_all=True)
    assert "1 failed, 1 xfailed, 1 error" in done.stdout
    assert done.stdout.count("LAMELLA_REQUIRE_ALL=1") >= 2
    done = inner(module, require_all=True)
    assert done.returncode != 0
    assert "all of it (LAMELLA_REQUIRE_ALL=1" in done.stdout


def test_a_left_folder_fails_the_session(inner):
    done = inner({"test_inner.py": LEAVES_A_FOLDER})
    assert done.returncode == 1
    assert "LEFT BEHIND by the tests: folder" in done.stdout
    assert not where(done)[0].exists()


def test_a_closed_folder_and_a_deep_one_are_removed(inner):
    done = inner({"test_inner.py": HARD_TO_REMOVE})
    assert done.returncode == 0, done.stdout


@pytest.mark.requires("loop")
def test_mounts_are_taken_back_and_a_forgotten_one_fails_its_test(inner):
    done = inner({"test_inner.py": LEAVES_A_MOUNT})
    assert "2 passed, 1 error" in done.stdout, done.stdout
    assert "left behind by the test" in done.stdout
    for folder in where(done):
        assert not parts.mounts_below(folder)
        assert not parts.loops_of(folder)
        assert not folder.exists()


def test_the_session_lives_in_one_folder(home, scratch, tmp_path):
    assert scratch.is_relative_to(home)
    assert tmp_path.is_relative_to(home)
    assert Path(os.environ["TMPDIR"]).is_relative_to(home)
