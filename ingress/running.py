"""The requests to engines that run in this ingress replica, and the last that have ended here."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, deque
from collections.abc import Collection
from typing import Any
from weakref import WeakValueDictionary

from deployments.usage.record import Record
from ingress.errors import GONE
from ingress.records import Account

KEPT = 200
"""Records that have ended, more than are on their way to the keeper at any time."""
STOP_S = 1.0
"""Seconds in which a request that was cancelled has ended, unless its client does not read."""

REQUEST_STATES = ("waiting", "running", "done", "failed", "cancelled")

Models = Collection[str] | None
"""Public names of those whose requests are meant; None is all."""


class Running:
    """Must be used on one event loop."""

    def __init__(self) -> None:
        # Weak: a request whose task was cancelled before its answer had begun ends without a word.
        self._accounts: WeakValueDictionary[str, Account] = WeakValueDictionary()
        self._ended: deque[Record] = deque(maxlen=KEPT)
        self._read: Counter[str] = Counter()
        self._over: dict[str, asyncio.Event] = {}

    def begun(self, account: Account) -> None:
        self._accounts[account.id] = account

    def ended(self, record: Record) -> None:
        self._accounts.pop(record.id, None)
        self._ended.append(record)
        self._read[record.model] += record.completion_tokens
        if (over := self._over.pop(record.id, None)) is not None:
            over.set()

    def rows(self) -> list[dict[str, Any]]:
        """Those that run, as `/api/requests` shows them."""
        return [row(account.so_far(), waits=account.waits_now) for account in self._accounts.values()]

    def last(self) -> list[dict[str, Any]]:
        return [row(record) for record in self._ended]

    def tokens(self) -> dict[str, int]:
        """Of answers, read here so far, by model."""
        read = self._read.copy()
        for account in self._accounts.values():
            read[account.model] += account.tokens
        return {model: tokens for model, tokens in read.items() if tokens and model}

    async def cancel(self, id_: str, models: Models = None) -> bool:
        """Ends the requests that go by the id, their own or their clients'. Returns whether there were any, once they
        have ended."""
        found = [a for a in self._accounts.values() if id_ in (a.id, a.request_id) and may_see(models, a.model)]
        over = [self._over.setdefault(account.id, asyncio.Event()) for account in found]
        for account in found:
            account.cancel()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_S):
                for event in over:
                    await event.wait()
        return bool(found)


def may_see(models: Models, model: str) -> bool:
    return models is None or model in models


def row(record: Record, *, waits: bool = False) -> dict[str, Any]:
    """A request as `/api/requests` shows it. waits: of one that runs, whether it has a replica yet."""
    shown = dict(vars(record))
    began_at = shown.pop("time") - record.total_ms / 1000
    state = _state(record.status) if record.status else "waiting" if waits else "running"
    return {**shown, "began_at": round(began_at, 3), "state": state, "status": record.status or None}


def _state(status: int) -> str:
    if status == GONE:
        return "cancelled"
    return "failed" if status >= 400 else "done"
