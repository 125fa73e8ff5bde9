"""One record of each request to an engine, made where it ends, whatever way it ends."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable

from starlette.requests import Request

from deployments.usage.record import Record
from ingress.errors import GONE
from ingress.onlooker import Onlooker, Replica
from ingress.request_id import request_id
from ingress.usage import Reader

_LAST = (b"data: [DONE]", b"event: response.completed", b"event: message_stop")
"""What is in the last bytes of a stream that is whole: many clients do not wait for the end of the connection."""

logger = logging.getLogger("ray.serve.llm_manager")


class Records:
    """on_begun, on_finished: called with each account and each record, at once and on the event loop."""

    def __init__(self, replica: str) -> None:
        self.on_begun: list[Callable[[Account], None]] = []
        self.on_finished: list[Callable[[Record], None]] = []
        self._replica = replica

    def begin(self, request: Request, path: str) -> Account:
        """path: of the endpoint."""
        account = Account(self, path, key_of(request), request_id(request.scope), self._replica)
        for told in self.on_begun:
            told(account)
        return account

    def finish(self, record: Record) -> None:
        for told in self.on_finished:
            try:
                told(record)
            except Exception:  # the answer is worth more
                logger.exception("The end of a request could not be told.")


def key_of(request: Request) -> str:
    """The name of the key that the request came with; empty: none is asked for."""
    name: str = getattr(request.state, "key_name", "")
    return name


class Account(Onlooker):
    """What one request takes. id: its record's. model, reader: set once they are known. from_cache: set by who answers
    for the engine."""

    def __init__(self, records: Records, path: str, key: str, request_id: str, replica: str) -> None:
        self.id = uuid.uuid4().hex
        self.request_id = request_id
        self.model = ""
        self.from_cache = False
        self.reader: Reader | None = None
        self._records = records
        self._path, self._key, self._replica = path, key, replica
        self._began = time.perf_counter()
        self._waiting_since: float | None = None
        self._queue_s = 0.0
        self._lent = False
        self._cancel: Callable[[], None] | None = None
        self._cancelled = False
        self._first_at: float | None = None
        self._streamed = False
        self._latest = b""

    @property
    def waits_now(self) -> bool:
        """For its model, or a replica of it."""
        return not self._lent and self._first_at is None

    @property
    def tokens(self) -> int:
        """Of the answer, so far."""
        return 0 if self.reader is None else self.reader.completion

    def cancel(self) -> None:
        """Ends the request, whatever it is at: as soon as its work is at a point where it may end."""
        self._cancelled = True
        if self._cancel is not None:
            self._cancel()

    def works(self, cancel: Callable[[], None]) -> None:
        self._cancel = cancel
        if self._cancelled:
            cancel()

    def waits(self) -> None:
        self._waiting_since = time.perf_counter()
        self._lent = False

    def lent(self) -> None:
        self._queue_s = self._queued_s()
        self._waiting_since = None
        self._lent = True

    async def whole(self, replica: Replica, body: bytes) -> None:
        self._first_at = time.perf_counter()
        if self.reader is not None:
            self.reader.whole(body)

    def chunk(self, replica: Replica, chunk: bytes, *, more: bool) -> bytes:
        if self._first_at is None:
            self._first_at = time.perf_counter()
            self._streamed = True
        self._latest = chunk
        return chunk if self.reader is None else self.reader.chunk(chunk, more=more)

    def ended(self, status: int) -> None:
        if status == GONE and any(last in self._latest for last in _LAST):
            status = 200
        self._records.finish(self.so_far(status))

    def so_far(self, status: int = 0) -> Record:
        """status: 0 as long as it runs."""
        reader = self.reader or Reader()
        return Record(
            id=self.id,
            time=time.time(),
            model=self.model,
            key=self._key,
            path=self._path,
            status=status,
            prompt_tokens=reader.prompt,
            completion_tokens=reader.completion,
            cached_tokens=reader.cached,
            queue_ms=_ms(self._queued_s()),
            ttft_ms=None if self._first_at is None else _ms(self._first_at - self._began),
            total_ms=_ms(time.perf_counter() - self._began),
            request_id=self.request_id,
            replica=self._replica,
            streamed=self._streamed,
            from_cache=self.from_cache,
        )

    def _queued_s(self) -> float:
        waiting_s = 0.0 if self._waiting_since is None else time.perf_counter() - self._waiting_since
        return self._queue_s + waiting_s


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
