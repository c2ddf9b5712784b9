"""The command line: ``lamella``, also ``python -m lamella``."""

from lamella.cli.app import main

__all__ = ["main"]
