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
    """on_finished: called with each record, at once and on the event loop."""

    def __init__(self, replica: str) -> None:
        self.on_finished: list[Callable[[Record], None]] = []
        self._replica = replica

    def begin(self, request: Request, path: str) -> Account:
        """path: of the endpoint."""
        return Account(self, path, key_of(request), request_id(request.scope), self._replica)

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
    """What one request takes. model, reader: set once they are known. from_cache: set by who answers for the engine."""

    def __init__(self, records: Records, path: str, key: str, request_id: str, replica: str) -> None:
        self.model = ""
        self.from_cache = False
        self.reader: Reader | None = None
        self._records = records
        self._path, self._key, self._request_id, self._replica = path, key, request_id, replica
        self._began = time.perf_counter()
        self._waiting_since: float | None = None
        self._queue_s = 0.0
        self._first_at: float | None = None
        self._streamed = False
        self._latest = b""

    def waits(self) -> None:
        self._waiting_since = time.perf_counter()

    def lent(self) -> None:
        if self._waiting_since is not None:
            self._queue_s += time.perf_counter() - self._waiting_since
            self._waiting_since = None

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
        self.lent()
        if status == GONE and any(last in self._latest for last in _LAST):
            status = 200
        reader = self.reader or Reader()
        self._records.finish(
            Record(
                id=uuid.uuid4().hex,
                time=time.time(),
                model=self.model,
                key=self._key,
                path=self._path,
                status=status,
                prompt_tokens=reader.prompt,
                completion_tokens=reader.completion,
                cached_tokens=reader.cached,
                queue_ms=_ms(self._queue_s),
                ttft_ms=None if self._first_at is None else _ms(self._first_at - self._began),
                total_ms=_ms(time.perf_counter() - self._began),
                request_id=self._request_id,
                replica=self._replica,
                streamed=self._streamed,
                from_cache=self.from_cache,
            )
        )


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
