"""The progress bar, drawn on stderr while a long call reports."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, Task, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.text import Text

from lamella.cli.text import human
from lamella.model import Progress

__all__ = ["progress_bar"]


class _Amount(ProgressColumn):
    """What was done, in the unit that the call counts."""

    def render(self, task: Task) -> Text:
        """Return ``12.0 MB of 40.1 MB``, or a count."""
        show = human if task.fields.get("unit") == "bytes" else "{:,}".format
        done = show(int(task.completed))
        return Text(done if task.total is None else f"{done} of {show(int(task.total))}", style="progress.download")


@contextlib.contextmanager
def progress_bar() -> Iterator[Callable[[Progress], None]]:
    """Give a callback for ``progress=``; one line a stage, gone at the end."""
    bar = Bar(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        _Amount(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    tasks: dict[str, object] = {}

    def report(progress: Progress) -> None:
        task = tasks.get(progress.stage)
        if task is None:
            task = tasks[progress.stage] = bar.add_task(progress.stage, total=progress.total, unit=progress.unit)
        bar.update(task, completed=progress.done, total=progress.total)  # type: ignore[arg-type]

    with bar:
        yield report
