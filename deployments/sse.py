"""Server-sent events, as all who send them write them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}


def event(data: Mapping[str, Any]) -> bytes:
    return b"data: " + json.dumps(data).encode() + b"\n\n"
