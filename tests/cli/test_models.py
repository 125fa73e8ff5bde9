from __future__ import annotations

import json

import pytest

from tests.cli.conftest import Run
from tests.cli.server import Server


@pytest.fixture(autouse=True)
def models(server: Server) -> None:
    for action in ("start", "stop", "pin", "unpin"):
        for name in ("org/a", "b"):
            server.says(f"POST /api/models/{name}/{action}", {"success": True, "message": f"{action} {name}."})
        server.refuses(f"POST /api/models/none/{action}", 404, "There is no 'none'.", "model_not_found")
    server.says("POST /api/models/stop-all", {"success": True, "message": "All.", "stopped_models": ["b"]})


@pytest.mark.parametrize("action", ["start", "stop", "pin", "unpin"])
def test_one_model_is_asked_for_once(cli: Run, server: Server, action: str) -> None:
    ended = cli(action, "org/a")
    assert (ended.status, ended.out) == (0, f"{action} org/a.\n")
    (asked,) = server.asked
    assert asked.query == {}


@pytest.mark.parametrize("action", ["start", "stop"])
def test_several_begin_before_any_is_waited_for(cli: Run, server: Server, action: str) -> None:
    ended = cli(action, "org/a", "b", "b")
    assert ended.lines == [f"{action} org/a.", f"{action} b."]
    asked = [(one.path.split("/")[-2], one.query.get("wait")) for one in server.asked]
    assert asked == [("a", "false"), ("b", "false"), ("a", None), ("b", None)]


@pytest.mark.parametrize("action", ["start", "stop"])
def test_nothing_is_waited_for_if_one_says_so(cli: Run, server: Server, action: str) -> None:
    assert cli(action, "--no-wait", "org/a", "b").status == 0
    assert [one.query for one in server.asked] == [{"wait": "false"}] * 2


@pytest.mark.parametrize("action", ["start", "stop", "pin", "unpin"])
def test_refusal_of_one_keeps_no_other_from_it(cli: Run, action: str) -> None:
    ended = cli(action, "none", "b")
    assert ended.status == 1
    assert ended.out == f"{action} b.\n"
    assert ended.err == "Error: There is no 'none'. [model_not_found]\n"


def test_json_has_the_answer_for_each_model(cli: Run) -> None:
    ended = cli("start", "--json", "b", "none")
    assert ended.status == 1
    answers = json.loads(ended.out)
    assert answers["b"] == {"success": True, "message": "start b."}
    assert answers["none"]["error"]["code"] == "model_not_found"
    assert list(answers) == ["b", "none"]


def test_all_models_are_stopped_at_once(cli: Run, server: Server) -> None:
    assert cli("stop", "--all").out == "All.\n"
    assert json.loads(cli("stop", "--all", "--no-wait", "--json").out)["stopped_models"] == ["b"]
    assert [(one.path, one.query) for one in server.asked] == [
        ("/api/models/stop-all", {}),
        ("/api/models/stop-all", {"wait": "false"}),
    ]
