"""The board, in a store of its own; and what it takes for granted of Ray's."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest

from deployments.residency.board import Board, Report, Row, Table, Wish, decode, encode
from tests.residency.store import Memory

# Wishes


def test_wishes_are_read_oldest_first(board: Board) -> None:
    made = [board.wish("a", "start"), board.wish("b", "stop"), board.wish("a", "restart")]
    assert board.wishes() == tuple(made)
    assert [wish.kind for wish in made] == ["start", "stop", "restart"]


def test_wishes_of_the_same_moment_are_two(board: Board) -> None:
    assert len({board.wish("a", "start").id for _ in range(100)}) == 100
    assert len(board.wishes()) == 100


def test_fulfilled_wish_is_gone(board: Board) -> None:
    first, second = board.wish("a", "start"), board.wish("a", "stop")
    board.fulfil([first.id])
    assert board.wishes() == (second,)
    board.fulfil([first.id])
    board.fulfil([])
    assert board.wishes() == (second,)


def test_wish_that_is_taken_down_while_wishes_are_read_is_left_out(board: Board, store: Memory) -> None:
    board.wish("a", "start")
    stays = board.wish("a", "stop")
    store.get = lambda key: store.values.get(key) if stays.id in key else None  # type: ignore[method-assign]
    assert board.wishes() == (stays,)


# Reports


def test_newest_report_of_a_replica_counts(board: Board) -> None:
    board.report(Report("a", "r1", "node", "loading", since=1))
    board.report(Report("a", "r2", "node", "loading", since=2))
    board.report(Report("a", "r1", "node", "up", since=3, need_mb=4.5, context_length=8))
    assert board.reports() == (
        Report("a", "r1", "node", "up", since=3, need_mb=4.5, context_length=8),
        Report("a", "r2", "node", "loading", since=2),
    )


def test_withdrawn_report_is_gone_whatever_it_says_now(board: Board) -> None:
    said = Report("org--a", "r1", "node")
    board.report(said)
    board.report(Report("org--a", "r1", "node", failure="out of memory"))
    board.withdraw(said)
    assert board.reports() == ()


def test_fields_of_another_version_are_left_out(board: Board, store: Memory) -> None:
    store.put("app/wish/1", b'{"id":"1","model":"a","kind":"stop","colour":"red"}')
    store.put("app/report/a/r1", b'{"model":"a","replica":"r1","node":"n","colour":"red"}')
    assert board.wishes() == (Wish("1", "a", "stop"),)
    assert board.reports() == (Report("a", "r1", "n"),)


# The table


def test_there_is_no_table_before_one_is_published(board: Board) -> None:
    assert board.table() is None


def test_published_table_is_read_back(board: Board) -> None:
    a = Row(replicas=1, reason="in use", answers={"w": ""}, deployment="a~1", placements={"a": "no node has GPU: 1"})
    table = Table("life", 3, {"a": a, "b": Row(peak_mb=7.5, deployment="b")})
    board.publish(encode(table))
    assert board.table() == table


def test_every_field_of_a_row_survives() -> None:
    odd: dict[str, Any] = {"bool": True, "int": 7, "float": 7.5, "str": "x", "dict[str, str]": {"w": "why"}}
    row = Row(**{f.name: odd[str(f.type).removesuffix(" | None")] for f in fields(Row)})
    assert decode(encode(Table("life", 3, {"a": row}))) == Table("life", 3, {"a": row})


def test_table_leaves_defaults_out() -> None:
    table = Table("life", 3, {"a": Row(replicas=2), "b": Row()})
    assert json.loads(encode(table)) == {"life": "life", "cap": 3, "rows": {"a": {"replicas": 2}}}
    assert decode(encode(table)).row("b") == Row(deployment="b")


def test_model_at_its_first_placement_needs_no_word_of_it() -> None:
    table = Table("life", 3, {"a": Row(deployment="a"), "b": Row(deployment="b~1")})
    assert json.loads(encode(table))["rows"] == {"b": {"deployment": "b~1"}}
    assert [decode(encode(table)).row(name).deployment for name in "ab"] == ["a", "b~1"]


def test_table_of_another_version_is_read_without_what_is_unknown() -> None:
    value = b'{"life":"life","cap":3,"rows":{"a":{"replicas":1,"colour":"red"}},"more":1}'
    assert decode(value) == Table("life", 3, {"a": Row(replicas=1, deployment="a")})


def test_rows_that_are_read_do_not_share_their_answers() -> None:
    table = decode(encode(Table("life", 1, {"a": Row(replicas=1), "b": Row(replicas=1)})))
    table.row("a").answers["w"] = ""
    assert table.row("b").answers == {} == Row().answers


def test_unknown_model_has_an_empty_row() -> None:
    assert Table().row("a") == Row(deployment="a")


def test_applications_do_not_see_each_other(store: Memory) -> None:
    app, app2 = Board("app", store), Board("app2", store)
    app2.wish("a", "start")
    app2.report(Report("a", "r1", "node"))
    app2.publish(encode(Table("life")))
    assert (app.wishes(), app.reports(), app.table()) == ((), (), None)


# Ray's store


@pytest.mark.parametrize(
    ("name", "arguments"), [("put", ("key", b"value")), ("get", ("key",)), ("list", ("prefix",)), ("del", ("key",))]
)
def test_ray_still_has_the_key_value_store_as_the_board_calls_it(name: str, arguments: tuple[Any, ...]) -> None:
    """Not a public API: a new Ray may have changed it."""
    from ray.experimental import internal_kv

    function: Callable[..., Any] = getattr(internal_kv, f"_internal_kv_{name}")
    signature = inspect.signature(function)
    signature.bind(*arguments, namespace="llm-manager")
    assert signature.parameters["namespace"].kind is inspect.Parameter.KEYWORD_ONLY
    if name == "put":
        assert signature.parameters["overwrite"].default is True
