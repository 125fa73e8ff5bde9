"""Tables in Markdown, written and read, and what each needs beside its figures."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version

Row = Sequence[str]
Told = Mapping[str, str]
"""A row that was read: cells by the names of their columns."""


def machine(*packages: str) -> str:
    named = ", ".join(f"{package} {version(package)}" for package in packages)
    return f"{os.cpu_count()} cores ({platform.machine()}), Python {platform.python_version()}, {named}"


def table(head: Row, rows: Iterable[Row]) -> str:
    lines = [head, ["---" for _ in head], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def targets(rows: Iterable[Row]) -> str:
    """Of rows that `target` and `told` make."""
    return table(("target", "wanted", "measured", ""), rows)


def target(what: str, value: float, bound: float, *, most: bool = False) -> Row:
    reached = value <= bound if most else value >= bound
    return (what, f"{'≤' if most else '≥'} {bound:g}", f"{value:.2f}", "reached" if reached else "**missed**")


def told(what: str, value: str) -> Row:
    return (what, "", value, "")


def read(text: str, heading: str, *columns: str) -> list[Told]:
    """The first table below the heading of the first level that has all these columns. Raises: LookupError."""
    for rows in _below(text, heading):
        if rows and set(columns) <= rows[0].keys():
            return rows
    raise LookupError(f"{heading}: no table with {', '.join(columns)}")


def number(cell: str) -> float:
    """Its first number; NaN where it has none."""
    found = re.search(r"-?\d[\d,]*(\.\d+)?", cell)
    return float(found[0].replace(",", "")) if found else float("nan")


def _below(text: str, heading: str) -> list[list[Told]]:
    """All tables there."""
    found: list[list[Told]] = []
    head: list[str] = []
    here = False
    for line in text.splitlines():
        if line.startswith("# "):
            here = line == f"# {heading}"
        if not here or not line.startswith("|"):
            head = []
            continue
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not head:
            head = cells
            found.append([])
        elif set("".join(cells)) - {"-", ":"}:
            found[-1].append(dict(zip(head, cells, strict=False)))
    return found
