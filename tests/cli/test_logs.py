from __future__ import annotations

import json
from typing import Any

import pytest

from tests.cli.conftest import Run
from tests.cli.server import Server

ROUTE = "GET /api/models/org/a/logs/stream"


def log(message: str, level: str = "info", kind: str = "historical") -> dict[str, Any]:
    return {"type": kind, "log": {"timestamp": 1.5, "level": level, "message": message, "replica": "r"}}


HISTORY = [log("one"), log("two", "error"), log("three", "debug"), log("four", "warning")]
LIVE = [log("five", kind="realtime"), log("six", "critical", "realtime")]
COMPLETE, END = {"type": "historical_complete"}, {"type": "stream_end"}


@pytest.fixture(autouse=True)
def stream(server: Server) -> None:
    server.streams(ROUTE, *HISTORY, COMPLETE, *LIVE, END)


def messages(lines: list[str]) -> list[str]:
    return [line.split()[-1] for line in lines]


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ([], ["one", "two", "three", "four"]),
        (["-n", "2"], ["three", "four"]),
        (["-n", "0"], []),
        (["--level", "warning"], ["two", "four"]),
        (["-n", "1", "--level", "ERROR"], ["two"]),
        (["-f"], ["one", "two", "three", "four", "five", "six"]),
        (["-f", "-n", "1"], ["four", "five", "six"]),
        (["-f", "--level", "critical"], ["six"]),
    ],
)
def test_lines_that_are_asked_for_are_shown(cli: Run, options: list[str], shown: list[str]) -> None:
    ended = cli("logs", "org/a", *options)
    assert ended.status == 0
    assert messages(ended.lines) == shown


def test_line_has_its_time_and_level(cli: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    line = cli("logs", "org/a", "-n", "1").lines[0]
    date, _, level, message = line.split()
    assert date in ("1970-01-01", "1969-12-31")
    assert (level, message) == ("warning", "four")


def test_json_is_an_event_a_line(cli: Run) -> None:
    ended = cli("logs", "org/a", "-f", "-n", "1", "--json")
    assert [json.loads(line) for line in ended.lines] == [HISTORY[-1], *LIVE]


@pytest.mark.parametrize("whole", [True, False])
def test_log_that_breaks_off_is_status_3_after_what_came(cli: Run, server: Server, whole: bool) -> None:
    server.streams(ROUTE, HISTORY[0], COMPLETE, LIVE[0], whole=whole)
    ended = cli("logs", "org/a", "-f")
    assert ended.status == 3
    assert messages(ended.lines) == ["one", "five"]


def test_error_in_the_log_is_told(cli: Run, server: Server) -> None:
    server.streams(ROUTE, COMPLETE, {"type": "error", "message": "The logs are away."})
    ended = cli("logs", "org/a", "-f")
    assert (ended.status, ended.err) == (1, "Error: The logs are away.\n")
