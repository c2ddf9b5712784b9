"""thinxml: lines as thin_dump writes them; XML read as expat reads it, in any pieces, with any room; nothing else read."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamella._kernels import thinxml
from lamella.block.extents import ExtentTable
from lamella.block.markup import Head, read_markup
from lamella.errors import FormatError
from tests.kernels.guarded import guarded
from tests.reference import thinxml as slow

I64 = np.int64
NUMBERS = st.sampled_from([0, 1, 9, 10, 99, 100, 101, 12345, 10**9, 2**40 - 1]) | st.integers(0, 2**40)
Run = tuple[int, int, int, int]
RUNS = st.lists(st.tuples(NUMBERS, NUMBERS, st.just(1) | st.integers(1, 10**7), st.integers(0, 2**24 - 1)), max_size=8)


# -- runs to text ---------------------------------------------------------------------------------------------------


FORMS = [thinxml.XML, thinxml.HUMAN, thinxml.RANGE, thinxml.PAIR]


def line_of(form: int, thin: int, data: int, length: int, time: int) -> str:
    if form == thinxml.RANGE:
        return f'      <range begin="{thin}" data_begin="{data}" length="{length}"/>\n'
    if form == thinxml.PAIR:
        return f'      <range begin="{thin}" left_data_begin="{data}" right_data_begin="{time}" length="{length}"/>\n'
    if form == thinxml.XML and length == 1:
        return f'    <single_mapping origin_block="{thin}" data_block="{data}" time="{time}"/>\n'
    if form == thinxml.XML:
        return f'    <range_mapping origin_begin="{thin}" data_begin="{data}" length="{length}" time="{time}"/>\n'
    if length == 1:
        return f"    {thin} -> {data}, {time}\n"
    return f"    ({thin}..{thin + length - 1}) -> ({data}..{data + length - 1}), {time}\n"


def rendered(runs: list[Run], form: int, room: int) -> str:
    columns = [guarded(column) for column in np.array(runs, I64).reshape(-1, 4).T]
    text, row = "", 0
    while row < len(runs):
        out = guarded(np.full(room, 7, np.uint8))
        row, used = thinxml.render(*columns, row, form, out)
        assert used
        assert (out[used:] == 7).all()
        text += out[:used].tobytes().decode()
    return text


@given(RUNS, st.sampled_from(FORMS), st.integers(thinxml.LINE_NBYTES, 500))
def test_lines(runs, form, room):
    assert rendered(runs, form, room) == "".join(line_of(form, *run) for run in runs)


def test_the_longest_line_fits():
    most = 2**63 - 1
    for form in FORMS:
        for run in [(most, most, most, most), (most, most, 1, most), (-1, -1, -1, -1)]:
            assert len(rendered([run], form, thinxml.LINE_NBYTES)) <= thinxml.LINE_NBYTES


def test_rendering_refuses_wrong_shapes():
    one, room = np.zeros(1, I64), np.zeros(thinxml.LINE_NBYTES, np.uint8)
    with pytest.raises(ValueError, match="no room"):
        thinxml.render(one, one, one, one, 0, thinxml.XML, room[1:])
    for columns, row in [((one, one, one, np.zeros(2, I64)), 0), ((one,) * 4, 2), ((one,) * 4, -1)]:
        with pytest.raises(ValueError, match="of one length"):
            thinxml.render(*columns, row, thinxml.XML, room)
    assert thinxml.render(one, one, one, one, 1, thinxml.XML, room) == (1, 0)


# -- text to runs ---------------------------------------------------------------------------------------------------


def scanned(pieces: list[bytes], cap: int = 3) -> list[slow.Item]:
    """Read pieces that end where readable memory does; what is not used comes again before the next."""
    state = guarded(np.zeros(thinxml.STATE_NBYTES, np.uint8))
    rows = [guarded(np.zeros(cap, I64)) for _ in range(4)]
    items: list[slow.Item] = []
    held = b""
    for piece in pieces:
        buffer = guarded(np.frombuffer(held + piece, np.uint8))
        at, event = 0, thinxml.FULL
        while event != thinxml.MORE:
            used, n, event = thinxml.scan(state, guarded(buffer[at:]), *rows)
            at += used
            items += [("run", *row) for row in zip(*(column[:n].tolist() for column in rows), strict=True)]
            values = thinxml.values(state)
            if event == thinxml.SUPERBLOCK:
                head = [values[name] for name in slow.HEAD]
                items.append(("head", *head, values.get("flags", 0), values.get("version", 1)))
            elif event == thinxml.DEVICE:
                items.append(("device", *(values[name] for name in slow.DEVICE)))
        held = buffer[at:].tobytes()
    if held or not thinxml.is_done(state):
        raise FormatError("ends too early")
    return items


GAPS = ["", "", "\n", "  ", "\r\n\t", "<!-- a > - comment < -->", "<?what ever ?>", "<!---->\n"]


@st.composite
def documents(draw: st.DrawFn) -> bytes:
    """XML that thin_restore takes, written as nobody's program writes it."""

    def gap() -> str:
        return draw(st.sampled_from(GAPS))

    def element(name: str, attributes: dict[str, Any], inner: str | None) -> str:
        words = []
        for key in draw(st.permutations(sorted(attributes))):
            quote, equals = draw(st.sampled_from("\"'")), draw(st.sampled_from(["=", "=", " = ", "\n="]))
            words.append(f"{draw(st.sampled_from([' ', ' ', '  ', chr(10)]))}{key}{equals}{quote}{attributes[key]}{quote}")
        space = draw(st.sampled_from(["", "", " "]))
        if not inner and draw(st.booleans()):
            return f"<{name}{''.join(words)}{space}/>"
        return f"<{name}{''.join(words)}{space}>{inner or ''}</{name}{space}>"

    def mapping(run: Run) -> str:
        thin, data, length, time = run
        if length == 1 and draw(st.booleans()):
            values = {"origin_block": thin, "data_block": data, "time": time}
            return element("single_mapping", values, gap())
        values = {"origin_begin": thin, "data_begin": data, "length": length, "time": time}
        if draw(st.booleans()):
            values |= {"other": "&lt;x > /"}
        return element("range_mapping", values, gap())

    def device() -> str:
        inner = "".join(gap() + (line_of(thinxml.XML, *run) if draw(st.booleans()) else mapping(run)) for run in draw(RUNS))
        return element("device", {name: draw(st.integers(0, 2**32 - 1)) for name in slow.DEVICE}, inner + gap())

    head = {name: f"{draw(st.sampled_from(['', '00']))}{draw(st.integers(0, 2**32 - 1))}" for name in slow.HEAD}
    head |= draw(st.sampled_from([{}, {"flags": 1}, {"uuid": "a/b > c", "version": 2, "x-y.z": ""}, {"metadata_snap": 7}]))
    inner = "".join(gap() + device() for _ in range(draw(st.integers(0, 3)))) + gap()
    prolog = draw(st.sampled_from(["", "<?xml version='1.0' encoding=\"utf-8\"?>", "\n<!-- first -->"]))
    return f"{prolog}{element('superblock', head, inner)}{gap()}".encode()


@given(documents(), st.lists(st.integers(0, 4000), max_size=6), st.integers(1, 4))
def test_documents_in_pieces(text, cuts, cap):
    ends = sorted(min(cut, len(text)) for cut in cuts)
    pieces = [text[a:b] for a, b in zip([0, *ends], [*ends, len(text)], strict=True)]
    expected = slow.read(text)
    assert scanned(pieces, cap) == scanned([text], cap) == expected


def plain() -> bytes:
    lines = "".join(line_of(thinxml.XML, *run) for run in [(0, 7, 1, 0), (5, 100, 20, 3), (2**40, 2**30, 1, 2**24 - 1)])
    return (
        '<superblock uuid="" time="1" transaction="2" flags="0" version="2" data_block_size="128" nr_data_blocks="100">\n'
        '  <device dev_id="0" mapped_blocks="3" transaction="4" creation_time="5" snap_time="6">\n'
        f"{lines}  </device>\n  <!-- c --><?p x?>\n</superblock>\n"
    ).encode()


def test_cut_at_every_byte():
    text = plain()
    expected = slow.read(text)
    assert len(expected) == 5
    for cut in range(len(text) + 1):
        assert scanned([text[:cut], text[cut:]]) == expected
    assert scanned([bytes([byte]) for byte in text]) == expected


def test_a_document_that_ends_too_early_is_refused_wherever_it_ends():
    text = plain().rstrip()
    for end in range(len(text)):
        with pytest.raises(FormatError):
            scanned([text[:end]])


@given(st.data())
def test_whatever_is_accepted_expat_reads_alike(data):
    """The other way does not hold: text, entities and DTDs are refused here alone. An XML declaration is not looked at."""
    text = bytearray(data.draw(documents()))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text) - 1))
        junk = data.draw(st.sampled_from([b"", b"<", b">", b"/", b'"', b"'", b"=", b"-", b"--", b"?", b"!", b" ", b"0", b"x"]))
        text[at : at + data.draw(st.integers(0, 3))] = junk
    try:
        items = scanned([bytes(text[: len(text) // 2]), bytes(text[len(text) // 2 :])])
    except FormatError:
        return
    assert items == slow.read(re.sub(rb"^<\?xml\s.*?\?>", b"", bytes(text), flags=re.DOTALL))


HEAD = '<superblock uuid="" time="1" transaction="2" data_block_size="128" nr_data_blocks="100">'
DEV = '<device dev_id="0" mapped_blocks="1" transaction="0" creation_time="0" snap_time="0">'
MAP = '<single_mapping origin_block="0" data_block="0" time="0"/>'
WRONG = {
    "no superblock": (f"{DEV}{MAP}</device>", "missing superblock", 1, 0),
    "not in a device": (f"{HEAD}\n{MAP}</superblock>", "does not belong there", 2, len(HEAD) + 1),
    "unknown": (f"{HEAD}<foo/></superblock>", "unknown element", 1, len(HEAD)),
    "shared runs": (f'{HEAD}\n\n<def name="a">{MAP}</def></superblock>', "unknown element", 3, len(HEAD) + 2),
    "a device in a device": (f"{HEAD}{DEV}{DEV}", "does not belong there", 1, len(HEAD + DEV)),
    "a mapping in a mapping": (f"{HEAD}{DEV}{MAP[:-2]}>{MAP}", "does not belong there", 1, len(HEAD + DEV + MAP) - 1),
    "a missing attribute": (f'{HEAD}{DEV}<single_mapping origin_block="0" time="0"/>', "attribute: data_block", 1, None),
    "a missing length": (f'{HEAD}{DEV}<range_mapping origin_begin="0" data_begin="1" time="0"/>', "attribute: length", 1, None),
    "a superblock's": ('<superblock time="0"/>', "could not find attribute: transaction", 1, 0),
    "a device's": (f'{HEAD}<device dev_id="1"/>', "could not find attribute: transaction", 1, len(HEAD)),
    "twice": (f"{HEAD}{DEV}{MAP[:-2]} time='0'/>", "attribute time twice", 1, None),
    "hexadecimal": (HEAD + DEV + MAP.replace("0", "0x1", 1), "no number that can be: origin_block", 1, None),
    "negative": (HEAD + DEV + MAP.replace("0", "-1", 1), "no number that can be: origin_block", 1, None),
    "spaced": (HEAD + DEV + MAP.replace("0", " 1", 1), "no number that can be: origin_block", 1, None),
    "empty": (HEAD + DEV + MAP.replace("0", "", 1), "no number that can be: origin_block", 1, None),
    "too large": (HEAD + DEV + MAP.replace("0", str(2**63), 1), "no number that can be: origin_block", 1, None),
    "a time too late": (HEAD + DEV + MAP.replace('time="0', 'time="16777216'), "no number that can be: time", 1, None),
    "a block size too large": (HEAD.replace("128", "4294967296"), "no number that can be: data_block_size", 1, None),
    "a run too far": (
        f'{HEAD}{DEV}<range_mapping origin_begin="{2**62}" data_begin="0" length="{2**62}" time="0"/>',
        "no number that can be: length", 1, None,
    ),
    "text": (f"{HEAD}x", "text where", 1, len(HEAD)),
    "text before": (f"x{HEAD}", "text where", 1, 0),
    "junk": (f"{HEAD}</superblock>{HEAD}</superblock>", "junk after", 1, len(HEAD) + 13),
    "junk text": (f"{HEAD}</superblock>x", "junk after", 1, len(HEAD) + 13),
    "junk end": (f"{HEAD}</superblock></superblock>", "junk after", 1, len(HEAD) + 13),
    "another end": (f"{HEAD}{DEV}</superblock>", "not open", 1, len(HEAD + DEV)),
    "another mapping's end": (f"{HEAD}{DEV}{MAP[:-2]}></range_mapping>", "not open", 1, None),
    "an end at first": ("</superblock>", "not open", 1, 0),
    "a document type": ("<!DOCTYPE x>", "declaration", 1, 0),
    "characters": (f"{HEAD}<![CDATA[]]>", "declaration", 1, len(HEAD)),
    "a late declaration": ("\n<?xml version='1.0'?>", "declaration", 2, 1),
    "an instruction without name": ("<? xml  ?>", "not well-formed", 1, 0),
    "hyphens": ("<!-- a -- b -->", "two hyphens", 1, 7),
    "no name": ("<>", "not well-formed", 1, 1),
    "no value": ("<superblock time>", "not well-formed", 1, 16),
    "no quotes": ("<superblock time=0>", "not well-formed", 1, 17),
    "no space": ('<superblock time="0"transaction="0">', "not well-formed", 1, None),
    "a bracket in a value": ('<superblock time="0<">', "not well-formed", 1, 19),
    "a stroke too early": ('<superblock / time="0">', "not well-formed", 1, None),
    "an end with attributes": (f"{HEAD}</superblock x='1'>", "not well-formed", 1, None),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_named_with_line_and_byte(case):
    text, words, line, offset = WRONG[case]
    with pytest.raises(FormatError, match=words) as caught:
        scanned([f"{text}\n".encode()])
    assert f"line {line}:" in str(caught.value)
    if offset is not None:
        assert caught.value.offset == offset
    with pytest.raises(FormatError, match=words) as again:
        scanned([bytes([byte]) for byte in f"{text}\n".encode()])
    assert str(again.value) == str(caught.value)


def test_wrong_shapes_are_refused():
    state, one = np.zeros(thinxml.STATE_NBYTES, np.uint8), np.zeros(1, I64)
    with pytest.raises(ValueError, match="bytes"):
        thinxml.scan(state[1:], b"", one, one, one, one)
    with pytest.raises(ValueError, match="at least 1"):
        thinxml.scan(state, b"", one, one, one, np.zeros(0, I64))


class Dribble(io.RawIOBase):
    """A file that gives a few bytes at a time."""

    def __init__(self, text: bytes, most: int) -> None:
        self._file, self._most = io.BytesIO(text), most

    def readinto(self, buffer: Any) -> int:
        return self._file.readinto(memoryview(buffer)[: self._most])


def items_of(source: Any) -> Iterator[slow.Item]:
    for item in read_markup(source):
        if isinstance(item, ExtentTable):
            yield from (("run", *extent) for extent in item)
        else:
            yield ("head" if isinstance(item, Head) else "device", *item)


@given(documents(), st.integers(1, 50))
def test_a_file_is_read_whatever_it_gives(text, most):
    assert list(items_of(Dribble(text, most))) == slow.read(text)


def test_longer_than_any_buffer():
    lines = b"".join(line_of(thinxml.XML, i, 2 * i, 1 + i % 2, i % 5).encode() for i in range(60_000))
    text = plain().replace(b"  </device>", b"<!--" + b"- x" * 700_000 + b"-->" + lines + b"  </device>")
    found = list(items_of(io.BytesIO(text)))
    assert found == slow.read(text)
    assert len(found) == 60_005
    with pytest.raises(FormatError, match="too long"):
        list(items_of(io.BytesIO(b"<superblock uuid='" + b"x" * (2 << 20))))
    with pytest.raises(FormatError, match="too early"):
        list(items_of(io.BytesIO(b"")))
