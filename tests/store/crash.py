"""Kill processes that work on a store, a thousand times a driver: ``python -m tests.store.crash [TIMES [SEED]]``."""

from __future__ import annotations

import contextlib
import random
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.sandbox import Sandbox, on_btrfs
from tests.store import scenes
from tests.store.conftest import OnBtrfs

DRIVERS = ("vfs", "overlay", "aufs", "btrfs")
BATCH = 50


@contextlib.contextmanager
def box_for(driver: str) -> Iterator[Any]:
    with tempfile.TemporaryDirectory(prefix="lamella-crash-", dir="/dev/shm") as where:
        if driver == "btrfs":
            with on_btrfs(Path(where)) as box:
                yield OnBtrfs(box)
        else:
            with Sandbox(Path(where)) as box:
                yield box


def main(times: int, seed: int) -> int:
    failed = 0
    for driver in DRIVERS:
        with box_for(driver) as box:
            steps = box.call(scenes.killed, driver, timeout=600)
            print(f"{driver}: killed at each of {steps['steps']} steps, wrong: {steps['wrong']}")
            failed += len(steps["wrong"])
            died = 0
            for at in range(0, times, BATCH):
                found = box.call(scenes.killed_any_time, driver, BATCH, seed + at, timeout=600)
                died += found["died"]
                failed += len(found["wrong"])
                for line in found["wrong"]:
                    print(f"{driver}, seed {seed + at}: {line}")
            print(f"{driver}: {died} of {times} killed at random moments, seed {seed}")
    return 1 if failed else 0


if __name__ == "__main__":
    arguments = [int(word) for word in sys.argv[1:]] + [1000, random.randrange(1 << 30)][len(sys.argv) - 1 :]
    sys.exit(main(*arguments))
