"""The program as a shell sees it: exit statuses, streams, a terminal."""

from __future__ import annotations

import base64
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys

import pytest

import lamella as package
from lamella.testing.tars import layer_tar
from tests.image.layouts import HandMade

PROGRAM = [sys.executable, "-m", "lamella"]


@pytest.fixture
def made(scratch):
    return HandMade(scratch / "image").write()


def test_version(lamella):
    assert lamella("--version").out == f"lamella {package.__version__}\n"


@pytest.mark.parametrize("command", ["inspect", "verify", "apply", "changes", "diff", "demo"])
def test_every_command_has_help_and_the_three_options(lamella, command):
    ran = lamella(command, "--help")
    assert ran.status == 0
    for option in ("--json", "--quiet", "--debug"):
        assert option in ran.out
    assert command in lamella("--help").out


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["no-such-command"],
        ["apply"],
        ["apply", "a", "b", "--no-such-option"],
        ["apply", "a", "b", "--dialect", "none"],
        ["apply", "a", "b", "--map-uid", "x"],
        ["apply", "a", "b", "--map-gid", "0:0:1"],
        ["apply", "a", "b", "--workers", "0"],
        ["changes", "a"],
        ["diff", "a", "b"],
        ["diff", "a", "b", "-o", "c", "--compression", "lzma"],
        ["diff", "a", "b", "-o", "c", "--compression", "gzip:fast"],
        ["inspect"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_2(lamella, words):
    ran = lamella(*words)
    assert (ran.status, ran.out) == (2, "")
    assert ran.err.startswith("Usage: lamella")


def test_a_bug_is_one_line_too(failed, made, monkeypatch):
    def broken(reference, **_):
        raise AssertionError("line 1\nline \x1b[2")

    monkeypatch.setattr(package, "open_image", broken)
    assert failed("inspect", made.reference).err == "lamella: error: line 1\\nline \\x1b[2\n"


def test_interrupted_is_130(lamella, made, monkeypatch):
    def interrupted(reference, **_):
        raise KeyboardInterrupt

    monkeypatch.setattr(package, "open_image", interrupted)
    ran = lamella("inspect", made.reference)
    assert (ran.status, ran.out, ran.err) == (130, "", "lamella: interrupted\n")


def test_an_interrupt_that_nothing_raises_is_repeated(made):
    code = f"""
import threading, weakref, lamella, lamella.cli
class Ends: pass
def callback(_): raise KeyboardInterrupt
def open_image(reference, **_):
    ends = Ends()
    kept = weakref.ref(ends, callback)
    del ends
    threading.Event().wait(60)
lamella.open_image = open_image
lamella.cli.main(["inspect", {made.reference!r}])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "lamella: interrupted\n")


def test_as_a_module(made):
    done = subprocess.run([*PROGRAM, "verify", made.reference], capture_output=True, text=True, check=True)
    assert done.stdout == f"{made.reference}: nothing wrong\n"
    assert done.stderr == ""


def test_a_reader_that_goes_away_is_no_error(made):
    code = f"from lamella.cli import main; main(['inspect', {made.reference!r}, '--json'])"
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "-c", code], stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, b"")


def test_output_that_cannot_be_written_is_an_error(made):
    with open("/dev/full", "wb") as full:
        done = subprocess.run([*PROGRAM, "inspect", made.reference], stdout=full, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 1
    assert done.stderr == b"lamella: error: [Errno 28] No space left on device\n"


def test_names_that_are_not_utf8_on_the_command_line(lamella, scratch):
    layer = os.fsencode(scratch) + b"/\xe9\x1b.tar"
    done = subprocess.run([*PROGRAM, "inspect", layer], capture_output=True, check=False, env={**os.environ, "LC_ALL": "C"})
    assert done.returncode == 1
    assert done.stderr.count(b"\n") == 1
    assert done.stderr.isascii()
    assert b"\x1b" not in done.stderr


def test_json_of_such_names_is_json_for_everybody(layer_of, scratch):
    path = layer_of(os.fsencode(scratch) + b"/\xe9.tar")
    done = subprocess.run([*PROGRAM, "inspect", path, "--json"], capture_output=True, check=True)
    document = json.loads(done.stdout)
    assert document["source"].endswith("\ufffd.tar")
    assert base64.b64decode(document["source_b64"]) == path


def test_a_locale_without_the_characters_gets_their_numbers(layer_of, scratch):
    path = layer_of(os.fsencode(scratch) + "/日.tar".encode())
    env = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    done = subprocess.run([*PROGRAM, "inspect", path], capture_output=True, check=True, env=env)
    assert b"/\\u65e5.tar" in done.stdout


@pytest.fixture
def layer_of():
    def write(path: bytes) -> bytes:
        with open(path, "wb") as file:
            file.write(layer_tar([]))
        return path

    return write


# --- on a terminal


def on_a_terminal(words, *, term="xterm-256color", interrupt_at=None, **env):
    """Run the program with all its streams on a terminal; return its status and every byte it wrote there."""
    ours, theirs = pty.openpty()
    env = {**os.environ, "TERM": term, "COLUMNS": "100", **env}
    argv = [*PROGRAM, *map(os.fspath, words)]
    child = subprocess.Popen(argv, stdin=theirs, stdout=theirs, stderr=theirs, env=env, start_new_session=True)
    os.close(theirs)
    seen = b""
    try:
        while True:
            assert select.select([ours], [], [], 60)[0], "no output for a minute"
            try:
                seen += os.read(ours, 65536)
            except OSError:  # EIO: nobody holds the other end any more
                return child.wait(60), seen
            if interrupt_at is not None and interrupt_at in seen:
                child.send_signal(signal.SIGINT)
                interrupt_at = None
    finally:
        os.close(ours)
        child.kill()
        child.wait()


def test_a_bar_is_drawn_and_gone_at_the_end(made):
    status, seen = on_a_terminal(["verify", made.reference])
    assert status == 0
    assert b"verify" in seen
    assert b"\x1b[?25l" in seen  # the cursor hides while the bar is there
    assert b"\x1b[?25h" in seen
    plain = re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]", b"", seen)
    assert plain.rstrip().endswith(b"nothing wrong")


def test_no_bar_where_none_is_wanted(made):
    assert on_a_terminal(["verify", made.reference, "--quiet"]) == (0, b"")
    line = f"{made.reference}: nothing wrong\r\n".encode()
    assert on_a_terminal(["verify", made.reference], term="dumb") == (0, line)
    done = subprocess.run([*PROGRAM, "verify", made.reference], capture_output=True, check=True)
    assert done.stderr == b""


def test_colours_for_changes(trees):
    status, seen = on_a_terminal(["changes", *trees])
    assert status == 0
    assert b"\x1b[31mD etc/old\x1b[0m" in seen
    assert b"esc\\x1b[31m\\n" in seen  # the file's own escape is shown as text


@pytest.mark.parametrize(("term", "env"), [("dumb", {}), ("xterm", {"NO_COLOR": "1"})], ids=["dumb", "NO_COLOR"])
def test_no_colours_where_they_are_not_wanted(trees, term, env):
    status, seen = on_a_terminal(["changes", *trees], term=term, **env)
    assert status == 0
    assert b"\x1b" not in seen


def test_diff_writes_no_layer_to_a_terminal(trees):
    status, seen = on_a_terminal(["diff", *trees, "-o", "-"])
    assert status == 2
    assert b"not a terminal" in seen


def test_control_c_is_one_line_and_leaves_nothing(scratch):
    status, seen = on_a_terminal(["demo", "--size", "300"], interrupt_at=b"layer 1", TMPDIR=str(scratch))
    assert status == 130
    assert seen.rstrip().endswith(b"lamella: interrupted")
    [home] = re.findall(rb"working in (\S+)", seen)
    assert not os.path.exists(home)
