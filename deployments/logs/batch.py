"""What a process that reads logs sends to the keeper."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Source:
    """A replica, and where it may be found when it is not heard any more.

    model: what the model or pool is called on the board. born: when the process began, in seconds since 1970.
    """

    model: str
    replica: str
    node: str
    pid: int
    born: float


@dataclass(frozen=True)
class Span:
    """Part of a file: what lies between two offsets."""

    start: int
    end: int

    @property
    def empty(self) -> bool:
        return self.start == self.end


@dataclass(frozen=True)
class Batch:
    """Lines that one replica printed after one another, and from which parts of its files they come: the keeper takes
    each part once.

    body: entries as `Entry.encode` makes them, a line each. ended: the replica says no more.
    """

    source: Source
    files: Mapping[str, Span] = field(default_factory=dict)
    count: int = 0
    body: bytes = b""
    ended: bool = False

    @property
    def empty(self) -> bool:
        return all(span.empty for span in self.files.values())

    def encode(self) -> bytes:
        files = {name: [span.start, span.end] for name, span in self.files.items()}
        head = {"source": vars(self.source), "files": files, "count": self.count, "ended": self.ended}
        return json.dumps(head).encode() + b"\n" + self.body


def decode(data: bytes) -> Batch:
    """Raises: ValueError, KeyError or TypeError for what is no batch."""
    first, _, body = data.partition(b"\n")
    head = json.loads(first)
    files = {name: Span(*span) for name, span in head["files"].items()}
    return Batch(Source(**head["source"]), files, head["count"], body, head["ended"])
