"""Fixtures of tests/block/workshop.py."""

from tests.block.workshop import workshop

__all__ = ["workshop"]
