"""`llm-manager requests` and `cancel`: what is being answered now, and what was last."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import click

from ingress.cli import options, output, table
from ingress.cli.client import Client
from ingress.cli.completion import complete_model
from ingress.cli.table import Column

STATES = {"running": "green", "waiting": "yellow", "failed": "red", "cancelled": "yellow"}
COLUMNS = (
    Column("ID"),
    Column("MODEL"),
    Column("STATE", colours=STATES),
    Column("BEGAN", right=True),
    Column("KEY"),
    Column("PATH"),
    Column("QUEUE", right=True),
    Column("FIRST TOKEN", right=True),
    Column("WHOLE", right=True),
    Column("PROMPT", right=True),
    Column("COMPLETION", right=True),
)


@click.command()
@click.option("--model", shell_complete=complete_model, help="Only of this one.")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="Most of those that ended.")
@options.as_json
@options.server
def requests(client: Client, model: str | None, limit: int, as_json: bool) -> None:
    """Shows the requests that run, and the last that ended."""
    answer = client.get("/api/requests", limit=limit, model=model)
    if as_json:
        output.print_json(answer)
        return
    now = time.time()
    output.print_table(COLUMNS, [row(request, now) for request in [*answer["running"], *answer["recent"]]])


@click.command()
@click.argument("id_", metavar="ID")
@options.as_json
@options.server
def cancel(client: Client, id_: str, as_json: bool) -> None:
    """Stops the answer to a request."""
    answer = client.post(f"/api/requests/{quote(id_, safe='')}/cancel")
    output.print_json(answer) if as_json else click.echo(answer["message"])


def row(request: Mapping[str, Any], now: float) -> list[str]:
    """now: seconds since 1970."""
    status = request["status"]
    return [
        request["id"],
        request["model"],
        f"{request['state']} {status}" if status and request["state"] == "failed" else request["state"],
        f"{table.span(now - request['began_at'])} ago",
        request["key"] or "",
        request["path"],
        table.milliseconds(request["queue_ms"]),
        table.milliseconds(request["ttft_ms"]),
        table.milliseconds(request["total_ms"]),
        _count(request["prompt_tokens"]),
        _count(request["completion_tokens"]),
    ]


def _count(tokens: int | None) -> str:
    return "" if tokens is None else f"{tokens:,}"
