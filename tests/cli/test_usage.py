from __future__ import annotations

import json
from typing import Any

from tests.cli.conftest import Run
from tests.cli.server import Server


def figures(**given: Any) -> dict[str, Any]:
    zero = dict.fromkeys(("requests", "errors", "prompt_tokens", "completion_tokens", "cached_tokens"), 0)
    times = {"avg_queue_ms": None, "avg_ttft_ms": None, "avg_total_ms": None}
    return {**zero, **times, **given}


ANSWER = {
    "success": True,
    "totals": figures(requests=3, errors=1, prompt_tokens=1234, avg_total_ms=20.4),
    "usage": [{"model": "org/a", **figures(requests=3, avg_ttft_ms=12.6)}],
}


def test_usage_is_shown_by_model_of_a_day(cli: Run, server: Server) -> None:
    server.says("GET /api/usage", ANSWER)
    rows = [line.split() for line in cli("usage").lines]
    assert rows[0][:3] == ["MODEL", "REQUESTS", "ERRORS"]
    assert rows[1] == ["org/a", "3", "0", "0", "0", "0", "-", "13", "ms", "-"]
    assert rows[2] == ["TOTAL", "3", "1", "1,234", "0", "0", "-", "-", "20", "ms"]
    assert server.asked[0].query == {"range": "24h", "group_by": "model"}


def test_range_and_grouping_are_the_server_s(cli: Run, server: Server) -> None:
    server.says("GET /api/usage", {**ANSWER, "usage": [{"hour": 7200, **figures()}]})
    assert cli("usage", "--range", "7d", "--by", "hour").lines[1].startswith("1970-01-01 02:00 UTC ")
    assert server.asked[0].query == {"range": "7d", "group_by": "hour"}
    assert cli("usage", "--by", "colour").status == 2


def test_json_is_the_api_s_own(cli: Run, server: Server) -> None:
    server.says("GET /api/usage", ANSWER)
    assert json.loads(cli("usage", "--json").out) == ANSWER
