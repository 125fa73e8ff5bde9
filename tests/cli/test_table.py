from __future__ import annotations

import pytest

from ingress.cli import table
from ingress.cli.table import Column

COLUMNS = (Column("NAME"), Column("N", right=True), Column("NOTE"))


def plain(lines: list[str]) -> list[str]:
    import click

    return [click.unstyle(line) for line in lines]


def test_columns_are_aligned_and_no_line_ends_in_spaces() -> None:
    lines = plain(table.render(COLUMNS, [["a", "1", "x"], ["longer", "100", ""]]))
    assert lines == [
        "NAME      N  NOTE",
        "a         1  x",
        "longer  100  -",
    ]


def test_widest_column_is_cut_to_the_terminal() -> None:
    lines = plain(table.render(COLUMNS, [["a", "1", "reason " * 20]], 40))
    assert all(len(line) <= 40 for line in lines)
    assert lines[1].startswith("a     1  reason")
    assert lines[1].endswith("…")


def test_narrow_terminal_leaves_something_of_each_column() -> None:
    _, line = plain(table.render(COLUMNS, [["n" * 30, "1", "t" * 30]], 10))
    assert line.split() == ["n" * 7 + "…", "1", "t" * 7 + "…"]


def test_cell_moves_no_cursor() -> None:
    _, line = plain(table.render((Column("A"),), [["a\x1b[2J\nb"]]))
    assert line == "a [2J b"


def test_colour_is_chosen_by_the_first_word_and_does_not_disturb_the_columns() -> None:
    columns = (Column("A", colours={"bad": "red"}), Column("B"))
    _, bad, good = table.render(columns, [["bad 500", "x"], ["good", "x"]])
    assert bad == "\x1b[31mbad 500\x1b[0m  x"
    assert good == "good     x"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, ""),
        (-1, "0s"),
        (0.4, "0s"),
        (59.4, "59s"),
        (59.6, "1m00s"),
        (192, "3m12s"),
        (7500, "2h05m"),
        (1e5, "1d3h"),
    ],
)
def test_span(seconds: float | None, text: str) -> None:
    assert table.span(seconds) == text


@pytest.mark.parametrize(("mb", "text"), [(None, ""), (0, ""), (93.4, "93 MB"), (1023, "1023 MB"), (2150, "2.1 GB")])
def test_memory(mb: float | None, text: str) -> None:
    assert table.memory(mb) == text


@pytest.mark.parametrize(("ms", "text"), [(None, ""), (0.2, "0 ms"), (351.2, "351 ms"), (65_000, "1m05s")])
def test_milliseconds(ms: float | None, text: str) -> None:
    assert table.milliseconds(ms) == text
