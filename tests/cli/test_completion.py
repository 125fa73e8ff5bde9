from __future__ import annotations

import socket
import time

import pytest

from tests.cli.server import Server
from tests.cli.test_main import python

CARDS = [{"id": "org/a", "aliases": ["other"]}, {"id": "b", "aliases": []}]


def completed(url: str, words: str) -> list[str]:
    """words: of the command line, the last one unfinished."""
    environment = {
        "_LLM_MANAGER_COMPLETE": "bash_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split(" ")) - 1),
        "LLM_MANAGER_URL": url,
    }
    ended = python("-m", "ingress.cli", **environment)
    assert ended.stderr == ""
    return [line.partition(",")[2] for line in ended.stdout.split()]


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("llm-manager run o", ["org/a", "other"]),
        ("llm-manager start b o", ["org/a", "other"]),
        ("llm-manager stop org/a ", ["other", "b"]),
        ("llm-manager logs -f b", ["b"]),
        ("llm-manager requests --model b", ["b"]),
        ("llm-manager unp", ["unpin"]),
    ],
)
def test_names_come_from_the_server(server: Server, words: str, names: list[str]) -> None:
    server.says("GET /v1/models", {"data": CARDS})
    assert completed(server.url, words) == names


def test_failure_is_silent(server: Server) -> None:
    server.refuses("GET /v1/models", 401, "A key is needed.", "invalid_api_key")
    assert completed(server.url, "llm-manager run ") == []
    assert completed("nonsense", "llm-manager run ") == []


def test_server_that_does_not_answer_is_not_waited_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        assert completed(f"http://127.0.0.1:{silent.getsockname()[1]}", "llm-manager run ") == []
        assert time.monotonic() - began < 20  # an answer is waited for thirty seconds elsewhere
