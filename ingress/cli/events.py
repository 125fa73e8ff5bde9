"""Server-sent events, as they come."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from ingress.cli.failures import Refused, text_of


def data_of(pieces: Iterable[bytes]) -> Iterator[str]:
    """The data of each event. pieces: of the stream, cut anywhere."""
    rest = b""
    lines: list[bytes] = []
    for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        for line in whole:
            line = line.removesuffix(b"\r")
            if line.startswith(b"data:"):
                lines.append(line[5:].removeprefix(b" "))
            elif not line and lines:
                yield b"\n".join(lines).decode(errors="replace")
                lines = []


def parse(data: str) -> dict[str, Any]:
    """Raises: Refused, if it tells of an error or of nothing that is known here."""
    try:
        event = json.loads(data)
        if "error" in event:
            raise Refused(text_of(event["error"]), event)
        if event.get("type") == "error":
            raise Refused(str(event["message"]), event)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise Refused(f"The server sent what is no event: {data[:200]}") from None
    found: dict[str, Any] = event
    return found
