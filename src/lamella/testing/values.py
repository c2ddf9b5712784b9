"""Values that show only what was said of them."""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Any


class Value:
    """Base of the dataclasses of this package: a short repr, without the fields that have their defaults."""

    def __repr__(self) -> str:
        shown = []
        for field in fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            default = field.default if field.default_factory is MISSING else field.default_factory()
            if default is MISSING:
                shown.append(repr(value))
            elif value != default:
                shown.append(f"{field.name}={value!r}")
        return f"{type(self).__name__}({', '.join(shown)})"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:  # for Hypothesis and IPython
        printer.text("..." if cycle else repr(self))
