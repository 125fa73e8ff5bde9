from __future__ import annotations

import math
from pathlib import Path

import pytest

from benchmarks import tables

README = Path(tables.__file__).with_name("README.md")


def test_table_that_is_written_can_be_read() -> None:
    text = (
        "# Other\n\n"
        + tables.table(("a",), [("0",)])
        + "\n\n# One\n\n"
        + tables.table(("", "a b"), [("x", "1,200.5 s")])
    )
    assert tables.read(text, "One", "a b") == [{"": "x", "a b": "1,200.5 s"}]


def test_table_is_found_by_its_heading_and_columns() -> None:
    text = "# One\n\n" + "\n\n".join(tables.table((name,), [(f"{name}1",)]) for name in "ab")
    assert tables.read(text, "One", "b") == [{"b": "b1"}]
    for heading, column in (("One", "c"), ("Two", "a")):
        with pytest.raises(LookupError):
            tables.read(text, heading, column)


@pytest.mark.parametrize(
    ("cell", "expected"), [("1,234", 1234), ("**1.07**", 1.07), ("36.9%", 36.9), ("-2 ms", -2), ("none", math.nan)]
)
def test_number_of_a_cell(cell: str, expected: float) -> None:
    assert tables.number(cell) == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize(
    ("heading", "columns"),
    [
        ("Data path", ("server", "load", "chunks/s")),
        ("Swaps", ("victim chosen", "first token")),
        ("Simulation", ("workload", "hit rate", "p99 s")),
        ("Scale", ("models", "answers s")),
    ],
)
def test_published_tables_have_what_the_plots_are_drawn_from(heading: str, columns: tuple[str, ...]) -> None:
    rows = tables.read(README.read_text(), heading, *columns)
    assert len(rows) > 1
    assert not math.isnan(tables.number(rows[-1][columns[-1]]))
