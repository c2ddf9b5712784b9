"""The example of README.md runs as it stands, and says what its comments promise."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import lamella

README = Path(__file__).resolve().parent.parent / "README.md"


def test_the_example_runs(scratch):
    code = re.search(r"^```python\n(.*?)^```", README.read_text(), re.DOTALL | re.MULTILINE)
    assert code is not None
    argv = [sys.executable, "-W", "error", "-c", code[1]]
    env = os.environ | {"PYTHONPATH": str(Path(lamella.__file__).resolve().parent.parent)}
    done = subprocess.run(argv, cwd=scratch, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("modify b'etc/motd'")
    assert lines[1].startswith("delete b'etc/old.conf'")
    assert "zstd" in lines[2]
    assert lines[3] == "['etc', 'etc/.wh.old.conf', 'etc/motd']"


def test_the_example_is_short():
    code = re.search(r"^```python\n(.*?)^```", README.read_text(), re.DOTALL | re.MULTILINE)
    assert code is not None
    assert len([line for line in code[1].splitlines() if line.strip()]) <= 20
