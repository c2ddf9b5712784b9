"""What the drivers say, asked in a sandbox."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lamella


def probed(folder: Path) -> dict[str, Any]:
    found = {f"{p.name}/{p.backend}": (p.available, " ".join(p.reasons)) for p in lamella.probe_drivers(folder)}
    return {"found": found, "left": [path.name for path in folder.iterdir()]}
