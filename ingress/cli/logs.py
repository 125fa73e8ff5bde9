"""`llm-manager logs`: what a model's processes print."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import click

from ingress.cli import events, options, output
from ingress.cli.client import Client, model_path
from ingress.cli.failures import Unreachable

LEVELS = ("debug", "info", "warning", "error", "critical")
COLOURS = {"warning": "yellow", "error": "red", "critical": "red"}
ESCAPE = "\x1b"
RESET = f"{ESCAPE}[0m"
Event = dict[str, Any]


@click.command()
@options.model
@click.option("--follow", "-f", is_flag=True, help="Go on until the model stops.")
@click.option("--lines", "-n", type=click.IntRange(min=0), help="Only so many of the last lines. Default: all.")
@click.option(
    "--level", type=click.Choice(LEVELS, case_sensitive=False), default="debug", help="Lines of this level and above."
)
@options.as_json
@options.server
def logs(client: Client, model: str, follow: bool, lines: int | None, level: str, as_json: bool) -> None:
    """Shows the log of a model."""
    with client.stream("GET", model_path(model, "/logs/stream")) as stream:
        for event in chosen(map(events.parse, stream), follow, lines, LEVELS.index(level)):
            output.print_event(event) if as_json else click.echo(text_of(event["log"]))


def chosen(stream: Iterable[Event], follow: bool, lines: int | None, least: int) -> Iterator[Event]:
    """The events of the lines that are to be shown. Ends with the history, or with the model if it is followed.

    least: of LEVELS. Raises: Unreachable, if the stream ends before.
    """
    history: deque[Event] = deque(maxlen=lines)
    for event in stream:
        if event["type"] == "historical_complete":
            yield from history
            if not follow:
                return
        elif event["type"] == "stream_end":
            return
        elif LEVELS.index(event["log"]["level"]) < least:
            continue
        elif event["type"] == "historical":
            history.append(event)
        else:
            yield event
    raise Unreachable("The server has ended the stream.")


def text_of(log: Mapping[str, Any]) -> str:
    """`2026-11-22 10:00:00 error   message`."""
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(log["timestamp"]))
    level = click.style(f"{log['level']:<8}", fg=COLOURS.get(log["level"]))
    message = log["message"]
    return f"{when} {level} {message}{RESET if ESCAPE in message else ''}"
