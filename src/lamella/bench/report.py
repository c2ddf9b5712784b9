"""A result as a JSON document, as a table for people, and as the table of README.md."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lamella
from lamella.bench import machine
from lamella.bench.gate import TIMES, Figure
from lamella.bench.panel import NOISE, Run
from lamella.bench.suite import Result

__all__ = ["MARKERS", "document", "lines", "markdown", "save"]

SCHEMA = 1
MARKERS = {  # of README.md, by the name of the result
    "one-layer": ("<!-- measured -->", "<!-- /measured -->"),
    "images": ("<!-- measured: images -->", "<!-- /measured: images -->"),
}
MARKS = {"met": "", "missed": "missed", "defect": "DEFECT"}


def document(result: Result) -> dict[str, Any]:
    """Return the whole result in plain values: every sample of every round, medians, figures and verdicts."""
    return {
        "schema": SCHEMA,
        "lamella": lamella.__version__,
        "build": machine.build(),
        "date": result.date,
        "mode": "quick" if result.quick else "full",
        "rounds": result.rounds,
        "machine": result.machine,
        "load": result.load,
        "peers": result.peers,
        "libraries": result.libraries,
        "corpus": result.corpus,
        "image": result.image,
        "figures": [_figure(figure, result) for figure in result.figures],
        "runs": [_run(run) for run in result.runs],
        "errors": result.errors,
    }


def _figure(figure: Figure, result: Result) -> dict[str, Any]:
    target = figure.target
    ours, peer = _sides(figure, result)
    return {
        "panel": target.panel,
        "fs": target.fs,
        "label": "kernel, counted" if target.kind == "calls" else "userspace",
        "kind": target.kind,
        "ours": target.ours,
        "peer": target.peer,
        "value": round(figure.value, 4),
        "sense": target.sense,
        "target": round(figure.limit, 4),
        "floor": target.floor,
        "verdict": figure.verdict,
        "text": figure.text,
        "wanted": figure.wanted,
        "cpu_ratio": round(peer.cpu / ours.cpu, 3) if peer is not None and ours.cpu else None,
        "ours_wall": round(ours.wall, 4),
        "peer_wall": None if peer is None else round(peer.wall, 4),
        "noisy": ours.noisy + (peer.noisy if peer is not None else 0),
    }


def _sides(figure: Figure, result: Result) -> tuple[Run, Run | None]:
    runs = {run.contender: run for run in result.runs if (run.panel, run.fs) == (figure.target.panel, figure.target.fs)}
    return runs[figure.target.ours], runs.get(figure.target.peer)


def _run(run: Run) -> dict[str, Any]:
    return {
        "panel": run.panel,
        "fs": run.fs,
        "contender": run.contender,
        "how": run.how,
        "leaves_out": run.leaves_out,
        "wall": round(run.wall, 4),
        "cpu": round(run.cpu, 4),
        "rss": run.rss,
        "noisy": run.noisy,
        "samples": [_rounded(asdict(sample)) for sample in run.samples],
    }


def _rounded(sample: dict[str, Any]) -> dict[str, Any]:
    return {name: round(value, 5) if isinstance(value, float) else value for name, value in sample.items()}


def save(result: Result, path: Path) -> None:
    """Write the document to ``path``."""
    path.write_text(json.dumps(document(result), indent=1, ensure_ascii=False) + "\n")


def lines(found: dict[str, Any]) -> Iterator[str]:
    """Yield a document as text: what was run on, a table of contenders, a table of figures."""
    yield f"lamella {found['lamella']} ({found['build']}), {found['date']}, {found['mode']}"
    yield f"medians of {found['rounds']}, taken by turns"
    yield f"{_box(found)}; load before {found['load']['before'][0]}"
    yield from _worked_on(found)
    yield "peers: " + ", ".join(f"{name} {version}" for name, version in found["peers"].items())
    yield ""
    yield from _table([("task", "on", "contender", "wall s", "cpu s", "rss MB", "out MB", "noisy", "leaves out")] + [
        (run["panel"], run["fs"], run["contender"], f"{run['wall']:.3f}", f"{run['cpu']:.3f}", _rss(run),
         _out(run), f"{run['noisy']}/{len(run['samples'])}" if run["noisy"] else "", run["leaves_out"])
        for run in found["runs"]
    ])  # fmt: skip
    yield ""
    yield from _table([("task", "on", "ours", "against", "figure", "in CPU", "target", "")] + [
        (figure["panel"], figure["fs"], figure["ours"], figure["peer"], figure["text"],
         f"{figure['cpu_ratio']:.2f}{TIMES}" if figure["kind"] in ("faster", "share") else "", figure["wanted"],
         MARKS[figure["verdict"]])
        for figure in found["figures"]
    ])  # fmt: skip
    if any(run["noisy"] for run in found["runs"]):
        yield ""
        yield f"noisy: samples during which others used more than {NOISE:.0%} of a CPU"
    yield from (f"NOT MEASURED {error}" for error in found["errors"])


def _box(found: dict[str, Any]) -> str:
    box = found["machine"]
    return f"{box['cpu']}, {box['cores']} cores, Linux {box['kernel']}, {box['python']}"


def _worked_on(found: dict[str, Any]) -> Iterator[str]:
    """Say which layer and which image were measured; a document of one of them has the other empty, or from before it."""
    if corpus := found["corpus"]:
        yield f"layer: {corpus['source']}, {corpus['entries']:,} entries, {corpus['bytes'] / 1e6:.0f} MB; {_packed(corpus)}"
    if image := found.get("image"):
        visible = f" ({image['visible']:,} visible)" if image["visible"] else ""
        yield (
            f"image: {image['source']}, {image['layers']} layers, {image['entries']:,} entries{visible}, "
            f"{image['bytes'] / 1e6:.0f} MB; {_packed(image)}"
        )


def _packed(corpus: dict[str, Any]) -> str:
    there = [name for name in ("gzip", "zstd") if name in corpus]
    return ", ".join(f"{name} {corpus[name]['bytes'] / 1e6:.0f} MB ({corpus[name]['encoder']})" for name in there)


def _rss(run: dict[str, Any]) -> str:
    """Say the peak of memory in MB, and how much of it came after the start of the interpreter.

    Of a program that stayed below this process's own peak only that is known.
    """
    floor = max(sample["floor"] for sample in run["samples"])
    if run["rss"] <= floor:
        return f"≤ {run['rss'] / 1e6:.0f}"
    more = f" (+{(run['rss'] - floor) / 1e6:.0f})" if run["how"].endswith("left out") or "VmHWM" in run["how"] else ""
    return f"{run['rss'] / 1e6:.0f}{more}"


def _out(run: dict[str, Any]) -> str:
    nbytes = run["samples"][-1]["facts"].get("nbytes")
    return f"{nbytes / 1e6:.0f}" if nbytes and run["panel"].startswith(("write", "squash")) else ""


def _table(rows: list[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    for number, row in enumerate(rows):
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        if not number:
            yield "  ".join("-" * width for width in widths)


def markdown(found: dict[str, Any]) -> str:
    """Return the table of README.md for a document that was saved."""
    worked_on = "".join(f"{line[0].upper()}{line[1:]}. " for line in _worked_on(found))
    run_on = (
        f"{found['date'][:10]}, lamella {found['lamella']} ({found['build']}), {_box(found)}. {worked_on}"
        f"Medians of {found['rounds']}, taken by turns; load {found['load']['before'][0]} before."
    )
    text = [
        run_on,
        "",
        "Peers: " + ", ".join(f"{name} {version}" for name, version in found["peers"].items()) + ".",
        "",
        "| task | on | against | seconds, ours and theirs | figure | target |",
        "|---|---|---|---|---|---|",
    ]
    text += [_row(figure) for figure in found["figures"]]
    return "\n".join(text) + "\n"


def _row(figure: dict[str, Any]) -> str:
    timed = figure["kind"] in ("faster", "share")
    against = figure["peer"] if timed else ""
    seconds = f"{figure['ours_wall']:.2f} : {figure['peer_wall']:.2f}" if timed else ""
    extra = figure["ours"].removeprefix("lamella").lstrip(", ")
    task = f"{figure['panel']}, {extra}" if extra else figure["panel"]
    mark = f", {MARKS[figure['verdict']]}" if MARKS[figure["verdict"]] else ""
    return f"| {task} | {figure['fs']} | {against} | {seconds} | {figure['text']} | {figure['wanted']}{mark} |"
