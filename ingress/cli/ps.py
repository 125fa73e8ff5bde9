"""`llm-manager ps`: how the models are."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import click

from ingress.cli import events, options, output, table
from ingress.cli.client import Client
from ingress.cli.failures import Unreachable
from ingress.cli.table import Column

MB = 2**20
STATES = {"running": "green", "starting": "yellow", "stopping": "yellow", "failed": "red"}
COLUMNS = (
    Column("NAME"),
    Column("STATE", colours=STATES),
    Column("ENGINE"),
    Column("PLACEMENT"),
    Column("REPLICAS", right=True),
    Column("MEMORY", right=True),
    Column("REQUESTS"),
    Column("IDLE", right=True),
    Column("UNLOADS IN", right=True),
    Column("NOTE"),
)
NOTE = len(COLUMNS) - 1
Model = Mapping[str, Any]


@click.command()
@click.option("--all", "-a", "everything", is_flag=True, help="Those that are stopped, too.")
@click.option("--watch", "-w", is_flag=True, help="Show each change as it happens.")
@options.as_json
@options.server
def ps(client: Client, everything: bool, watch: bool, as_json: bool) -> None:
    """Shows the models that are up, and how they are."""
    if watch:
        _watch(client, everything, as_json)
        return
    answer = client.get("/api/models")
    models = _shown(answer["models"], everything)
    if as_json:
        output.print_json({**answer, "models": models})
    else:
        _print(models)


def _watch(client: Client, everything: bool, as_json: bool) -> None:
    known: dict[str, Model] = {}
    with client.stream("GET", "/api/models/stream") as stream:
        for event in map(events.parse, stream):
            if as_json:
                output.print_event(event)
                continue
            changed = event["models"] if event["type"] == "models" else [event["model"]]
            known.update({model["name"]: model for model in changed})
            if sys.stdout.isatty():
                click.clear()
            _print(_shown(list(known.values()), everything))
            sys.stdout.flush()
    raise Unreachable("The server has ended the stream.")


def _print(models: Sequence[Model]) -> None:
    rows = [row(model, time.time()) for model in models]
    shown = COLUMNS if any(cells[NOTE] for cells in rows) else COLUMNS[:NOTE]
    output.print_table(shown, [cells[: len(shown)] for cells in rows])


def _shown(models: Sequence[Model], everything: bool) -> list[Model]:
    return [model for model in models if everything or model["status"] != "stopped"]


def row(model: Model, now: float) -> list[str]:
    """now: seconds since 1970."""
    up = model["status"] in ("running", "starting")
    return [
        model["name"],
        model["status"],
        model["engine"],
        _placement(model) if up else "",
        str(model["replicas"]),
        table.memory(model["memory_bytes"] / MB),
        _requests(model["running_requests"], model["pending_requests"]),
        table.span(model["idle_seconds"]),
        "pinned" if model["pinned"] else table.span(left(model, now)),
        _note(model),
    ]


def left(model: Model, now: float) -> float | None:
    """Seconds until it is unloaded, if nobody asks for it."""
    unloads_at = model["unloads_at"]
    return None if unloads_at is None else max(0.0, unloads_at - now)


def _placement(model: Model) -> str:
    """With the nodes, if the server tells them."""
    nodes = ", ".join(model.get("nodes") or ())
    return f"{model['placement']} on {nodes}" if nodes else str(model["placement"])


def _requests(running: int, waiting: int) -> str:
    told = [f"{running} running"] * bool(running) + [f"{waiting} waiting"] * bool(waiting)
    return ", ".join(told)


def _note(model: Model) -> str:
    if loading := model["loading"]:
        return f"{loading['phase']}, {table.span(loading['seconds'])}"
    return model["failure_reason"] or ""
