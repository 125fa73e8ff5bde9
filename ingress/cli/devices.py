"""`llm-manager devices`: what the nodes of the cluster have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import click

from ingress.cli import options, output, table
from ingress.cli.client import Client
from ingress.cli.table import Column

COLUMNS = (
    Column("NODE"),
    Column("DEVICE"),
    Column("NAME"),
    Column("USED", right=True),
    Column("MEMORY", right=True),
    Column("BUSY", right=True),
    Column("HEAT", right=True),
    Column("POWER", right=True),
)
Shown = Mapping[str, Any]


@click.command()
@options.as_json
@options.server
def devices(client: Client, as_json: bool) -> None:
    """Shows processors, GPUs and memory of every node."""
    answer = client.get("/api/devices/info")
    if as_json:
        output.print_json(answer)
    else:
        output.print_table(COLUMNS, [row for node in answer["nodes"] for row in rows(node)])


def rows(node: Shown) -> Iterator[list[str]]:
    name = f"{node['host_name']} ({node['address']})"
    if not node["online"]:
        yield [name, "offline", node["error"], "", "", "", "", ""]
    for kind, device in node["devices"].items():
        each = device.get("info", {}).get("devices")
        if not device["online"]:
            yield [name, kind, f"offline: {device['error']}", "", "", "", "", ""]
        elif each is None:
            yield [name, kind, _name(device["info"]), *_figures(device["info"])]
        else:
            for gpu in each:
                what = [gpu["name"], *_figures(gpu)] if gpu["online"] else [f"offline: {gpu['error']}", *[""] * 5]
                yield [name, f"{kind} {gpu['index']}", *what]


def _name(info: Shown) -> str:
    return str(info["device_name"]) if "device_name" in info else f"{info['cpu_count']} processors"


def _figures(info: Shown) -> list[str]:
    busy, heat, power = (info.get(name) for name in ("utilization", "temperature", "power"))
    return [
        table.memory(info["memory_used"]),
        table.memory(info["memory_total"]),
        "" if busy is None else f"{busy:.0f} %",
        "" if heat is None else f"{heat:.0f} °C",
        "" if power is None else f"{power:.0f} W",
    ]
