"""The README's table of commands."""

from __future__ import annotations

import re

import click
import pytest

from ingress.cli.main import COMMANDS, cli
from tests.cli.test_main import ROOT

SECTION = re.search(r"^## Command line\n(.*?)^## ", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)


def rows() -> list[str]:
    """Of the section's table, without its head."""
    assert SECTION is not None
    return re.findall(r"^\| (`.*) \|$", SECTION[1], re.MULTILINE)


def test_every_command_is_in_the_table_and_nothing_else() -> None:
    named = [word for row in rows() for word in re.findall(r"`([a-z]+)", row.partition(" | ")[0])]
    assert sorted(named) == sorted(COMMANDS)


@pytest.mark.parametrize("row", rows())
def test_options_of_the_table_exist(row: str) -> None:
    known: set[str] = set()
    for name in re.findall(r"`([a-z]+)", row.partition(" | ")[0]):
        command = cli.get_command(click.Context(cli), name)
        commands = command.commands.values() if isinstance(command, click.Group) else [command]
        known.update(option for one in commands if one for option in options_of(one))
    assert set(re.findall(r"`(--?[a-z][a-z-]*)", row)) <= known


def options_of(command: click.Command) -> list[str]:
    return [option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)]


def test_exit_statuses_are_those_of_the_help() -> None:
    assert SECTION is not None
    statuses = re.findall(r"^ *(?:Exit status: )?(\d+) ", str(cli.help), re.MULTILINE)
    assert statuses == ["0", "1", "2", "3", "4", "130"]
    assert set(re.findall(r"\b(\d+)\b", SECTION[1].partition("Exit status")[2])) == set(statuses)
