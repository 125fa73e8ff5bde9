from __future__ import annotations

import json
import time
from typing import Any

from tests.cli.conftest import Run
from tests.cli.server import Server


def request(id_: str, state: str, **given: Any) -> dict[str, Any]:
    """As the server shows one."""
    return {
        "id": id_,
        "request_id": f"x-{id_}",
        "key": "",
        "model": "org/a",
        "path": "/v1/chat/completions",
        "state": state,
        "status": None,
        "began_at": time.time() - 90_000,
        "queue_ms": None,
        "ttft_ms": None,
        "total_ms": 65_000,
        "prompt_tokens": None,
        "completion_tokens": None,
        **given,
    }


ANSWER = {
    "success": True,
    "running": [request("1", "running", queue_ms=0.4, ttft_ms=350, prompt_tokens=12, completion_tokens=1200, key="k")],
    "recent": [request("2", "failed", status=503)],
}


def test_running_requests_stand_before_those_that_ended(cli: Run, server: Server) -> None:
    server.says("GET /api/requests", ANSWER)
    rows = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in cli("requests").lines]
    path = "/v1/chat/completions"
    assert rows[1] == ["1", "org/a", "running", "1d1h ago", "k", path, "0 ms", "350 ms", "1m05s", "12", "1,200"]
    assert rows[2] == ["2", "org/a", "failed 503", "1d1h ago", "-", path, "-", "-", "1m05s", "-", "-"]
    assert server.asked[0].query == {"limit": "20"}


def test_model_and_limit_are_the_server_s(cli: Run, server: Server) -> None:
    server.says("GET /api/requests", ANSWER)
    assert json.loads(cli("requests", "--model", "org/a", "--limit", "5", "--json").out) == ANSWER
    assert server.asked[0].query == {"limit": "5", "model": "org/a"}


def test_request_is_cancelled_by_its_id(cli: Run, server: Server) -> None:
    answer = {"success": True, "message": "The request has been stopped."}
    server.says("POST /api/requests/a/b/cancel", answer)
    assert cli("cancel", "a/b").out == "The request has been stopped.\n"
    assert json.loads(cli("cancel", "a/b", "--json").out) == answer


def test_request_that_does_not_run_is_refused(cli: Run, server: Server) -> None:
    server.refuses("POST /api/requests/1/cancel", 404, "No such request runs.", "request_not_found")
    assert cli("cancel", "1").status == 1
