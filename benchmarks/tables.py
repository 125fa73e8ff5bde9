"""Markdown, and what every table needs beside its figures."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Sequence
from importlib.metadata import version

Row = Sequence[str]


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
