"""A replica that is this process, and what it says."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence

import psutil

from deployments.logs.batch import Batch, Source, Span
from deployments.logs.lines import Entry

FILE = "/var/log/a.out"


def source(replica: str = "r1", model: str = "org--a", pid: int | None = None) -> Source:
    return Source(model, replica, "n1", pid or os.getpid(), psutil.Process().create_time())


def batch(start: int, end: int, messages: Sequence[str], who: Source | None = None, *, ended: bool = False) -> Batch:
    who = who or source()
    body = b"\n".join(Entry(1.0, "info", message, who.replica).encode() for message in messages)
    return Batch(who, {FILE: Span(start, end)}, len(messages), body, ended)


def messages(bodies: bytes) -> list[str]:
    return [json.loads(line)["message"] for line in bodies.split(b"\n")]
