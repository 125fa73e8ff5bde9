"""`llm-manager usage`: what requests took."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, get_args

import click

from deployments.usage.ranges import GroupBy
from ingress.cli import options, output, table
from ingress.cli.client import Client
from ingress.cli.table import Column

_COUNTS = ("requests", "errors", "prompt_tokens", "completion_tokens", "cached_tokens")
_FIGURES = ("REQUESTS", "ERRORS", "PROMPT", "COMPLETION", "CACHED", "QUEUE", "FIRST TOKEN", "WHOLE")
_TIMES = {"hour": "%Y-%m-%d %H:%M", "day": "%Y-%m-%d"}


@click.command()
@click.option("--range", "range_", default="24h", show_default=True, metavar="RANGE", help="Such as 30m, 24h or 7d.")
@click.option("--by", type=click.Choice(get_args(GroupBy)), default="model", show_default=True, help="A line each.")
@options.as_json
@options.server
def usage(client: Client, range_: str, by: str, as_json: bool) -> None:
    """Shows requests, tokens and mean times of the past."""
    answer = client.get("/api/usage", range=range_, group_by=by)
    if as_json:
        output.print_json(answer)
        return
    columns = [Column(by.upper()), *(Column(title, right=True) for title in _FIGURES)]
    rows = [[_group(by, group[by]), *_cells(group)] for group in answer["usage"]]
    output.print_table(columns, [*rows, ["TOTAL", *_cells(answer["totals"])]])


def _group(by: str, value: Any) -> str:
    return time.strftime(_TIMES[by], time.gmtime(value)) + " UTC" if by in _TIMES else str(value)


def _cells(figures: Mapping[str, Any]) -> list[str]:
    times = (figures[f"avg_{name}_ms"] for name in ("queue", "ttft", "total"))
    return [*(f"{figures[name]:,}" for name in _COUNTS), *map(table.milliseconds, times)]
