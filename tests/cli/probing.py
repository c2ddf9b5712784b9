"""What the drivers say, asked in a sandbox."""

from __future__ import annotations

import json
from dataclasses import asdict
from io import StringIO
from pathlib import Path
from typing import Any

import lamella
from lamella.cli.app import program
from lamella.cli.output import Output
from lamella.drivers import overlay


def probed(folder: Path) -> dict[str, Any]:
    found = {f"{p.name}/{p.backend}": (p.available, " ".join(p.reasons)) for p in lamella.probe_drivers(folder)}
    return {"found": found, "left": [path.name for path in folder.iterdir()]}


def featured(folder: Path) -> dict[str, Any]:
    found = {f"{d['name']}/{d['backend']}": d["features"] for d in _drivers(folder)}
    tried = asdict(overlay.features(folder))
    return {**found, "tried": tried, "left": [path.name for path in folder.iterdir()]}


def unfeatured(folder: Path) -> dict[str, Any]:
    def fail(_: Path) -> overlay.OverlayFeatures:
        raise OSError(5, "on purpose")

    overlay.features = fail
    (found,) = [d for d in _drivers(folder) if (d["name"], d["backend"]) == ("overlay", "kernel")]
    return found


def _drivers(folder: Path) -> list[dict[str, Any]]:
    out = StringIO()
    program.main(["drivers", str(folder), "--json"], obj=Output(stream=out), standalone_mode=False)
    drivers: list[dict[str, Any]] = json.loads(out.getvalue())["drivers"]
    return drivers
