"""Reads on in files to which others write."""

from __future__ import annotations

import fcntl
import os
import stat
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from deployments.logs import lines
from deployments.logs.batch import Batch, Source, Span
from deployments.logs.lines import Entry

READ_MAX = 128 * 1024
"""Bytes that are read of a file at a time: whoever shares the process's interpreter lock waits as long as they take."""
PARTIAL_S = 1.0
"""Seconds after which a line counts although nothing ends it."""
_F_GETPATH = 50  # macOS


class Tail:
    """One file. What is read counts only when `confirm` says so; until then it is read again."""

    def __init__(self, path: str, offset: int) -> None:
        self.path = path
        self.offset = offset
        self.behind = False  # whether there is more to read at once
        self._level = "info"
        self._grown_at = time.monotonic()
        self._size = offset

    def read(self, replica: str, *, end: bool = False) -> tuple[Span, list[Entry]]:
        """The next whole lines. end: nothing more will be written, so the last line is one too."""
        try:
            with open(self.path, "rb", buffering=0) as file:
                file.seek(self.offset)
                raw = file.read(READ_MAX)
        except FileNotFoundError:
            raw = b""
        now = time.monotonic()
        if self.offset + len(raw) != self._size:
            self._size, self._grown_at = self.offset + len(raw), now
        self.behind = len(raw) == READ_MAX
        old = (end or now - self._grown_at > PARTIAL_S) and not self.behind
        raw = raw[: lines.whole(raw, end=old)]
        return Span(self.offset, self.offset + len(raw)), lines.entries(
            raw, replica, round(time.time(), 3), self._level
        )

    def confirm(self, offset: int, level: str | None = None) -> None:
        """level: of the last line before the offset."""
        self.offset = offset
        self._level = level or self._level


@dataclass(frozen=True)
class Round:
    """What was read of several files at once."""

    batch: Batch
    levels: Mapping[str, str]


def read(tails: Iterable[Tail], source: Source, *, end: bool = False) -> Round:
    files: dict[str, Span] = {}
    entries: list[Entry] = []
    levels: dict[str, str] = {}
    for tail in tails:
        files[tail.path], found = tail.read(source.replica, end=end)
        if found:
            entries += found
            levels[tail.path] = found[-1].level
    body = b"\n".join(entry.encode() for entry in entries)
    return Round(Batch(source, files, len(entries), body), levels)


def note(source: Source, level: str, message: str, *, ended: bool = False) -> Batch:
    """What is said about a replica that does not print it itself. ended: it says no more."""
    entry = Entry(round(time.time(), 3), level, message, source.replica)
    return Batch(source, count=1, body=entry.encode(), ended=ended)


def own_files() -> list[str]:
    """The files that this process and its children print to; of pipes and terminals none."""
    found = []
    for fd in (1, 2):
        try:
            if stat.S_ISREG(os.fstat(fd).st_mode) and (path := _path_of(fd)) not in found and Path(path).exists():
                found.append(path)
        except OSError:
            continue
    return found


def _path_of(fd: int) -> str:
    if sys.platform == "darwin":
        return fcntl.fcntl(fd, _F_GETPATH, bytes(1024)).rstrip(b"\0").decode()
    return os.readlink(f"/proc/self/fd/{fd}")


def size(path: str) -> int:
    return Path(path).stat().st_size
