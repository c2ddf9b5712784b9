"""What is printed can deceive no terminal and no program."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamella.cli.text import columns, human, one_line, path_fields, shown


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (b"plain name", "plain name"),
        ("café/日本語".encode(), "café/日本語"),
        (b"back\\slash", "back\\\\slash"),
        (b"new\nline", "new\\nline"),
        (b"\x1b[2J", "\\x1b[2J"),
        (b"\x9b31m", "\\x9b31m"),  # a lone C1 byte is no UTF-8
        ("\x9b31m".encode(), "\\u009b31m"),  # and the character is a control sequence introducer
        ("user\u202egnp.exe".encode(), "user\\u202egnp.exe"),
        ("\u2028".encode(), "\\u2028"),
        ("\U000e0001".encode(), "\\U000e0001"),
        ("a\u00a0b".encode(), "a\\u00a0b"),  # looks like a space, is none
        (b"latin1-\xe9", "latin1-\\xe9"),
        (b"[bold]x[/bold]", "[bold]x[/bold]"),
        (b"", ""),
    ],
)
def test_shown(path, text):
    assert shown(path) == text


@given(st.binary(max_size=40))
def test_shown_is_one_printable_line(path):
    assert shown(path).isprintable()


@given(st.lists(st.binary(max_size=6), min_size=2, max_size=2, unique=True))
def test_two_names_are_never_shown_alike(paths):
    assert shown(paths[0]) != shown(paths[1])


@given(st.text(max_size=60))
def test_an_error_is_one_printable_line(text):
    assert one_line(ValueError(text)).isprintable()
    assert one_line(ValueError("")) == "ValueError"


@given(st.binary(max_size=40))
def test_a_path_in_json_gives_its_bytes_back(path):
    fields = path_fields(path)
    if "path_b64" in fields:
        assert base64.b64decode(fields["path_b64"]) == path
        assert "\ufffd" in fields["path"]
    else:
        assert fields["path"].encode() == path


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (999_949, "999.9 kB"), (999_950, "1.0 MB"), (1 << 50, "1125.9 TB")],
)
def test_human(nbytes, text):
    assert human(nbytes) == text


def test_columns():
    assert list(columns([("a", "1"), ("bcd", "22")], "lr")) == ["a     1", "bcd  22"]
    assert list(columns([])) == []
