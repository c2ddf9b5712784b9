"""Kill processes that work on a store, a thousand times a driver: ``python -m tests.store.crash [TIMES [SEED]]``."""

from __future__ import annotations

import random
import sys
import tempfile
from pathlib import Path

from tests.sandbox import Sandbox
from tests.store import scenes

DRIVERS = ("vfs", "overlay", "aufs")
BATCH = 50


def main(times: int, seed: int) -> int:
    failed = 0
    with tempfile.TemporaryDirectory(prefix="lamella-crash-", dir="/dev/shm") as where, Sandbox(Path(where)) as box:
        for driver in DRIVERS:
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
