"""docs/ says what is: the command line's page has every command and option, the kernels' page every kernel."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from lamella import errors
from lamella.cli.app import program

ROOT = Path(__file__).resolve().parent.parent
CLI = (ROOT / "docs" / "cli.md").read_text()
CONTEXT = click.Context(program)
COMMANDS = {name: program.get_command(CONTEXT, name) for name in program.list_commands(CONTEXT)}
EVERYWHERE = {"--json", "--quiet", "--debug", "--help"}


def described() -> dict[str, set[str]]:
    """Read docs/cli.md: the options named in each command's section."""
    sections = [text[4:] for text in re.split(r"^(?=##)", CLI, flags=re.MULTILINE) if text.startswith("### ")]
    return {text.split()[0]: set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", text)) for text in sections}


def inner_commands(command: click.Command) -> dict[str, click.Command]:
    """Return a group's commands, loaded if they are not yet."""
    if not isinstance(command, click.Group):
        return {}
    return {name: command.get_command(CONTEXT, name) for name in command.list_commands(CONTEXT)}


def offered(command: click.Command) -> set[str]:
    """Ask a command for the long options it takes, a group for those of its commands too."""
    names = {name for p in command.params if isinstance(p, click.Option) for name in p.opts if name.startswith("--")}
    for inner in inner_commands(command).values():
        names |= offered(inner)
    return names - EVERYWHERE - {"--output"}  # the long form of -o


def test_every_command_of_a_group_is_described():
    commands = {name for command in COMMANDS.values() for name in inner_commands(command)}
    words = set(re.findall(r"`([a-z]+)(?= |`)", CLI))
    assert commands
    assert commands <= words


def test_every_command_is_described():
    assert set(described()) == set(COMMANDS) != set()


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_option_is_described(name):
    options = described()[name]
    if name == "diff":  # "takes the options of changes, and"
        options |= described()["changes"]
    if name == "unpack":  # "takes the options of apply but for the expected digests, and"
        options |= {option for option in described()["apply"] if not option.startswith("--expected-")}
    assert options - EVERYWHERE == offered(COMMANDS[name])


def test_every_kernel_is_described():
    listed = set(re.findall(r'"(\w+)"', re.search(r"KERNELS = \[(.*?)\]", (ROOT / "setup.py").read_text(), re.DOTALL)[1]))
    table = set(re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "kernels.md").read_text(), re.MULTILINE))
    assert table == listed


def test_every_error_is_described():
    text = (ROOT / "docs" / "architecture.md").read_text()
    families = {"ReferenceNotFound", "BlobNotFound", "UnsupportedMediaType"}  # "a reference, blob or media type"
    assert {name for name in errors.__all__ if f"`{name}`" not in text} <= families


def test_pages_link_to_what_exists():
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
    broken = [
        f"{page.name}: {link}"
        for page in pages
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
        if not (page.parent / link).exists()
    ]
    assert broken == []
