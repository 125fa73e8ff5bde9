"""Sends what this process prints to the keeper, from a thread of its own.

The files are the buffer: while the keeper is away nothing is held in memory, and nothing is lost. The keeper answers
up to where it has them; the shipper goes on from there.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

import psutil

from deployments.logs import tail
from deployments.logs.batch import Source
from deployments.logs.tail import Tail

SHIP = "/logs/ship"
LOOK_S = 0.05
BEAT_S = 1.0
"""The keeper hears of a replica at least so often."""
AWAY_S = 0.5  # between two tries while the keeper is away
FLUSH_S = 3.0  # for the last lines; after that the keeper collects them
GONE_S = 1.0


NO_FILES = "This process prints to no file: what it prints is not here. (Is RAY_ROTATION_MAX_BYTES set?)"


class Post(Protocol):
    def post(self, path: str, data: bytes) -> Any: ...


class Shipper:
    def __init__(self, source: Source, files: Sequence[str], keeper: Post) -> None:
        """files: are read from where they end now."""
        self._source = source
        self._tails = [Tail(path, tail.size(path)) for path in files]
        self._keeper = keeper
        self._told = False  # that there is nothing to tell
        self._last_beat = float("-inf")
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="log-shipper", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Returns once everything printed before is with the keeper, or after FLUSH_S."""
        self._ending.set()
        self._thread.join(FLUSH_S + LOOK_S)

    def _run(self) -> None:
        while not self._ending.is_set():
            try:
                pause = LOOK_S if self.ship() else 0
            except Exception:  # whatever it was, the lines wait in their files
                pause = AWAY_S
            self._ending.wait(pause)
        self._flush()

    def ship(self) -> bool:
        """Sends what has been printed. Returns whether that was all. Raises: OSError."""
        if not self._tails and not self._told:
            self._keeper.post(SHIP, tail.note(self._source, "warning", NO_FILES).encode())
            self._told = True
        self._send(ended=False)
        return not any(tail.behind for tail in self._tails)

    def _flush(self) -> None:
        """A keeper that does not answer is not waited for: it may be ending too."""
        deadline = time.monotonic() + FLUSH_S
        gone_at = time.monotonic() + GONE_S
        while time.monotonic() < min(deadline, gone_at):
            try:
                if self._send(ended=True):
                    return
                gone_at = time.monotonic() + GONE_S
            except Exception:
                time.sleep(LOOK_S)

    def _send(self, *, ended: bool) -> bool:
        """Returns whether the keeper knows now that this was the end."""
        seen = tail.read(self._tails, self._source, end=ended)
        batch = replace(seen.batch, ended=ended and seen.batch.empty)
        now = time.monotonic()
        if batch.empty and not batch.ended and now - self._last_beat < BEAT_S:
            return False
        taken = self._keeper.post(SHIP, batch.encode())["files"]
        self._last_beat = now
        for one in self._tails:
            one.confirm(taken[one.path], seen.levels.get(one.path))
        return batch.ended and all(taken[path] == span.end for path, span in batch.files.items())


def of_this_process(model: str, replica: str, node: str, keeper: Post) -> Shipper:
    me = psutil.Process()
    return Shipper(Source(model, replica, node, os.getpid(), me.create_time()), tail.own_files(), keeper)
