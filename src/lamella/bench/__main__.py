"""``python -m lamella.bench``: measure, print the table of ratios, fail below a floor or where a peer is absent."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from pathlib import Path

from lamella.bench import report
from lamella.bench.measure import MeasureError
from lamella.bench.suite import ROUNDS, AbsentPeers, run_suite

__all__ = ["main"]


def main(argv: list[str] | None = None) -> int:
    """Run the suite with the words ``argv`` and return the exit status."""
    words = _parser().parse_args(argv)
    if words.markdown is not None:
        print(report.markdown(json.loads(words.markdown.read_text())), end="")
        return 0
    try:
        result = run_suite(
            quick=words.quick, rounds=words.rounds, panels=words.panel, image=words.image, image_zstd=words.image_zstd, say=_say
        )
    except (AbsentPeers, MeasureError) as error:
        print(f"lamella.bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("lamella.bench: interrupted", file=sys.stderr)
        return 130
    if words.out is not None:
        report.save(result, words.out)
    for line in report.lines(report.document(result)):
        print(line)
    if result.failure is not None:
        print(f"lamella.bench: {result.failure}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lamella.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one round of a small corpus")
    parser.add_argument("--rounds", type=_at_least_one, metavar="N", help=f"samples of each contender ({ROUNDS}; quick: 1)")
    parser.add_argument("--panel", action="append", default=[], metavar="NAME", help="only panels whose name begins so")
    parser.add_argument("--image", default="", metavar="REF", help="an OCI layout of gzip layers, instead of one made here")
    parser.add_argument("--image-zstd", default="", metavar="REF", help="its zstd twin")
    parser.add_argument("-o", "--json", dest="out", type=Path, metavar="FILE", help="write the whole result as JSON")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="print the table of such a file, measure nothing")
    return parser


def _at_least_one(word: str) -> int:
    number = int(word)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


def _say(line: str) -> None:
    print(f"- {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwinds: nothing stays mounted
    sys.exit(main())
