from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from logging.handlers import MemoryHandler, RotatingFileHandler
from pathlib import Path

import pytest

from ingress import request_log
from ingress.request_log import line_of, open_beside, write
from tests.test_outbox import record


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    logger = request_log.logger
    before = (logger.handlers, logger.propagate, logger.level)
    yield
    for handler in logger.handlers:
        handler.close()
    logger.handlers, logger.propagate, logger.level = before


def serves(folder: Path) -> logging.Logger:
    """As Serve sets its own up."""
    logger = logging.Logger("ray.serve")
    file = RotatingFileHandler(folder / "replica_app_Ingress_1.log", maxBytes=1000, backupCount=2, delay=True)
    logger.addHandler(logging.StreamHandler())
    logger.addHandler(MemoryHandler(1, target=file))
    return logger


def test_each_line_of_the_file_is_a_request(tmp_path: Path) -> None:
    path = open_beside(serves(tmp_path), "app_1")
    assert path == tmp_path / "requests_app_1.log"
    write([record(request_id='id "7"\n'), record(model="b")])
    told = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(one["model"], one["request_id"]) for one in told] == [("a", 'id "7"\n'), ("b", "id-7")]


def test_file_is_bounded_as_serves_are(tmp_path: Path) -> None:
    open_beside(serves(tmp_path), "app_1")
    for _ in range(9):
        write([record()])
    assert len(list(tmp_path.glob("requests_app_1.log*"))) == 3


def test_without_a_file_of_serves_the_lines_go_where_others_go(caplog: pytest.LogCaptureFixture) -> None:
    assert open_beside(logging.Logger("ray.serve"), "app_1") is None
    with caplog.at_level(logging.INFO):
        write([record()])
    assert json.loads(caplog.messages[0])["model"] == "a"


def test_line_says_what_the_request_took() -> None:
    assert json.loads(line_of(record(time=1_795_305_600.25))) == {
        "time": "2026-11-22T00:00:00.250+00:00",
        **{"model": "a", "key": "", "path": "/v1/chat/completions", "status": 200},
        **{"prompt_tokens": 3, "completion_tokens": 5, "cached_tokens": 2},
        **{"queue_ms": 1.0, "ttft_ms": 10.0, "total_ms": 50.0},
        **{"request_id": "id-7", "replica": "r1", "streamed": True, "from_cache": False},
    }
