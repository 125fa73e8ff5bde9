from __future__ import annotations

import json
import time
from typing import Any

from ingress.cli import ps
from tests.cli.conftest import Run
from tests.cli.server import Server


def model(name: str, status: str = "running", **given: Any) -> dict[str, Any]:
    """As the server shows one."""
    return {
        "name": name,
        "status": status,
        "engine": "echo",
        "placement": name.replace("/", "--"),
        "replicas": 1,
        "memory_bytes": 200 * 2**20,
        "running_requests": 0,
        "pending_requests": 0,
        "idle_seconds": None,
        "unloads_at": None,
        "pinned": False,
        "loading": None,
        "failure_reason": None,
        **given,
    }


def test_models_that_are_up_are_shown(cli: Run, server: Server) -> None:
    models = [
        model("org/a", running_requests=2, pending_requests=1, nodes=["10.0.0.1"]),
        model("b", "stopped"),
        model("c", idle_seconds=61.2, unloads_at=time.time() + 3630),
    ]
    server.says("GET /api/models", {"success": True, "message": "3 models.", "models": models})
    ended = cli("ps")
    assert ended.status == 0
    assert ended.lines == [
        "NAME   STATE    ENGINE  PLACEMENT           REPLICAS  MEMORY  REQUESTS               IDLE  UNLOADS IN",
        "org/a  running  echo    org--a on 10.0.0.1         1  200 MB  2 running, 1 waiting      -           -",
        "c      running  echo    c                          1  200 MB  -                     1m01s       1h00m",
    ]
    assert [line.split()[0] for line in cli("ps", "--all").lines] == ["NAME", "org/a", "b", "c"]


def test_note_says_what_is_loading_and_what_has_failed(cli: Run, server: Server) -> None:
    loading = {"phase": "preparing the weights", "seconds": 3.2, "last_seconds": None}
    models = [model("a", "starting", loading=loading), model("b", "failed", failure_reason="No room.")]
    server.says("GET /api/models", {"models": models})
    titles, starting, failed = cli("ps").lines
    assert titles.endswith("  NOTE")
    assert starting.endswith("  preparing the weights, 3s")
    assert failed.endswith("  No room.")


def test_pinned_model_is_not_unloaded() -> None:
    shown = dict(zip([c.title for c in ps.COLUMNS], ps.row(model("a", pinned=True, unloads_at=5), 0), strict=True))
    assert shown["UNLOADS IN"] == "pinned"


def test_json_is_the_api_s_own_with_the_models_that_are_shown(cli: Run, server: Server) -> None:
    answer = {"success": True, "message": "2 models.", "models": [model("a"), model("b", "stopped")]}
    server.says("GET /api/models", answer)
    assert json.loads(cli("ps", "--all", "--json").out) == answer
    assert [m["name"] for m in json.loads(cli("ps", "--json").out)["models"]] == ["a"]


def test_watch_shows_each_change_until_the_server_goes(cli: Run, server: Server) -> None:
    first = {"type": "models", "models": [model("a"), model("b", "stopped")]}
    changes = [first, {"type": "model", "model": model("b", "starting")}]
    server.streams("GET /api/models/stream", *changes)
    ended = cli("ps", "--watch")
    assert [line.split()[:2] for line in ended.lines] == [
        ["NAME", "STATE"],
        ["a", "running"],
        ["NAME", "STATE"],
        ["a", "running"],
        ["b", "starting"],
    ]
    assert ended.status == 3
    assert [json.loads(line) for line in cli("ps", "--watch", "--json").lines] == changes


def test_watch_tells_of_a_connection_that_broke(cli: Run, server: Server) -> None:
    server.streams("GET /api/models/stream", {"type": "models", "models": []}, whole=False)
    assert cli("ps", "--watch").status == 3
