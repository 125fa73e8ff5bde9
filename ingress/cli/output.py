"""What is written, for people and for programs."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import Any

import click

from ingress.cli import table
from ingress.cli.table import Column


def print_json(data: Any) -> None:
    click.echo(json.dumps(data, indent=2, ensure_ascii=False))


def print_event(data: Any) -> None:
    click.echo(json.dumps(data, ensure_ascii=False))


def print_table(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    for line in table.render(columns, rows, terminal_width()):
        click.echo(line)


def terminal_width() -> int | None:
    """None: there is no terminal, and so nothing to cut to."""
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or None
    except (OSError, ValueError):
        return None


def is_coloured() -> bool:
    return sys.stdout.isatty() and click.get_current_context().color is not False
