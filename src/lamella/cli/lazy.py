"""A group of commands, each in a module that is imported when it is asked for: a start costs what it uses."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import ClassVar

import click

__all__ = ["LazyGroup"]


class LazyGroup(click.Group):
    """``modules``: command to the module of lamella.cli that has it."""

    modules: ClassVar[Mapping[str, str]]

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  (click's signature)
        """Return the names of all commands."""
        return sorted(self.modules)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Return a command, None where there is none of that name."""
        module = self.modules.get(cmd_name)
        if module is None:
            return None
        command: click.Command = getattr(importlib.import_module(f"lamella.cli.{module}"), cmd_name)
        return command
