"""Tables of text, and figures as people read them. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import click

GAP = "  "
NARROW = 8
"""A column is cut to no less, while another is wider."""
NOTHING = "-"


@dataclass(frozen=True)
class Column:
    """right: where figures stand. colours: of a cell, by its first word."""

    title: str
    right: bool = False
    colours: Mapping[str, str] = field(default_factory=dict)


def render(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int | None = None) -> list[str]:
    """Lines, the titles first. width: to which they are cut, the widest columns first."""
    plain = [[_printable(cell) or NOTHING for cell in row] for row in rows]
    wanted = [max(map(len, cells)) for cells in zip([c.title for c in columns], *plain, strict=True)]
    widths = _fitting(wanted, None if width is None else width - len(GAP) * (len(columns) - 1))
    titles = [click.style(cell, bold=True) for cell in _aligned([c.title for c in columns], columns, widths)]
    return [GAP.join(titles), *(GAP.join(_coloured(row, columns, widths)) for row in plain)]


def _coloured(row: Sequence[str], columns: Sequence[Column], widths: Sequence[int]) -> list[str]:
    colours = [column.colours.get(cell.partition(" ")[0]) for cell, column in zip(row, columns, strict=True)]
    cells = _aligned(row, columns, widths)
    return [click.style(cell, fg=fg) if fg else cell for cell, fg in zip(cells, colours, strict=True)]


def _aligned(row: Sequence[str], columns: Sequence[Column], widths: Sequence[int]) -> list[str]:
    """The last column is as wide as what it says: no line ends in spaces."""
    cells = [_cut(cell, width) for cell, width in zip(row, widths, strict=True)]
    last = len(cells) - 1
    return [
        cell.rjust(width) if column.right else cell if i == last else cell.ljust(width)
        for i, (cell, column, width) in enumerate(zip(cells, columns, widths, strict=True))
    ]


def _fitting(wanted: Sequence[int], room: int | None) -> list[int]:
    widths = list(wanted)
    while room is not None and sum(widths) > room and max(widths) > NARROW:
        widest = widths.index(max(widths))
        widths[widest] -= 1
    return widths


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _printable(text: str) -> str:
    """One line, with nothing in it that moves a terminal's cursor."""
    return "".join(c if c.isprintable() else " " for c in text)


def memory(mb: float | None) -> str:
    """mb: of 2**20 bytes."""
    if not mb:
        return ""
    return f"{mb / 1024:.1f} GB" if mb >= 1024 else f"{mb:.0f} MB"


def span(seconds: float | None) -> str:
    """`45s`, `3m12s`, `2h05m`, `3d4h`."""
    if seconds is None:
        return ""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86400}d{whole % 86400 // 3600}h"


def milliseconds(ms: float | None) -> str:
    if ms is None:
        return ""
    return f"{ms:.0f} ms" if ms < 10_000 else span(ms / 1000)
