"""`llm-manager COMMAND …`: finds the command, and makes an exit status of how it ended."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from io import TextIOWrapper
from typing import Any

import click

PROGRAM = "llm-manager"
INTERRUPTED = 130

COMMANDS = {
    "ps": "ps",
    "run": "run",
    "start": "models",
    "stop": "models",
    "pin": "models",
    "unpin": "models",
    "logs": "logs",
    "devices": "devices",
    "usage": "usage",
    "requests": "requests",
    "cancel": "requests",
    "pull": "pull",
    "serve": "serve",
    "config": "config",
    "keys": "keys",
    "version": "version",
}
"""Each command's module."""


class Commands(click.Group):
    """Imports a command when it is asked for: one that only asks the server is there at once."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(import_module(f"ingress.cli.{COMMANDS[cmd_name]}"), cmd_name)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """A reader of the output who has gone has what it wanted."""
        try:
            status = super().invoke(ctx)
            sys.stdout.flush()
            return status
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return None


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.pass_context
def cli(context: click.Context) -> None:
    """One OpenAI-compatible server for many local models.

    The server is at --url or LLM_MANAGER_URL; a key for it is read from LLM_MANAGER_KEY.

    \b
    Exit status: 0 done
                 1 the server refused or failed
                 2 wrong usage
                 3 the server cannot be reached
                 4 not allowed
               130 interrupted
    """
    if os.environ.get("NO_COLOR"):
        context.color = False


def run(arguments: Sequence[str]) -> int:
    """The exit status."""
    try:
        status = cli.main(list(arguments), PROGRAM, standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    return status if isinstance(status, int) else 0


def main() -> None:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # half a character, or one that the terminal has not
    sys.exit(run(sys.argv[1:]))
