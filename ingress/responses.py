"""Which replica holds a response of `/v1/responses`: engines keep them in their own memory.

It lies in Ray's key-value store, so that each ingress replica knows it of all.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from dataclasses import asdict, dataclass
from typing import Any

from deployments.errors import ResponseNotFound
from deployments.residency.board import Store, ray_store
from deployments.server import SECRET_HEADER
from ingress.onlooker import Onlooker, Replica

LIMIT = 1000  # responses that an ingress replica remembers, its last ones
MAX_EVENT = 2**20  # bytes of a stream that are searched for its first event
LOOPBACK = "//127.0.0.1:"

_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")

logger = logging.getLogger("ray.serve.llm_manager")


@dataclass(frozen=True)
class Held:
    """A response's replica."""

    model: str
    url: str
    secret: str

    @property
    def headers(self) -> dict[str, str]:
        return {SECRET_HEADER.decode(): self.secret}


class Responses:
    def __init__(self, application: str, host: str, store: Store | None = None) -> None:
        """host: this node's address, for ingress replicas on others."""
        self._prefix = f"{application}/response/"
        self._host = host
        self._store = store or ray_store()
        self._own: dict[str, Held] = {}  # that this ingress replica has kept, the oldest first
        self._writing: set[asyncio.Task[None]] = set()

    async def find(self, id_: str) -> Held:
        """Raises: ResponseNotFound."""
        if _ID.fullmatch(id_):
            if held := self._own.get(id_):
                return held
            if value := await asyncio.to_thread(self._store.get, self._prefix + id_):
                return Held(**json.loads(value))
        raise ResponseNotFound(f"The response {id_!r} does not exist, or was not stored.", param="id")

    async def keep(self, id_: str, model: str, replica: Replica) -> None:
        url = replica.url.replace(LOOPBACK, f"//{self._host}:")
        self._own.pop(id_, None)
        held = self._own[id_] = Held(model, url, replica.headers[SECRET_HEADER.decode()])
        old = next(iter(self._own)) if len(self._own) > LIMIT else None
        if old is not None:
            del self._own[old]
        try:
            await asyncio.to_thread(self._write, id_, held, old)
        except Exception:  # the answer is worth more than what may be asked of it later
            logger.exception("It could not be left which replica holds a response.")

    def keep_soon(self, id_: str, model: str, replica: Replica) -> None:
        task = asyncio.create_task(self.keep(id_, model, replica))
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)

    def _write(self, id_: str, held: Held, old: str | None) -> None:
        self._store.put(self._prefix + id_, json.dumps(asdict(held)).encode())
        if old is not None:
            self._store.delete(self._prefix + old)


class Watch(Onlooker):
    """Reads along one answer of `/v1/responses`, and keeps where it comes from."""

    def __init__(self, responses: Responses, model: str, *, stored: bool) -> None:
        """stored: what the request says; some engines' answers do not."""
        self._responses = responses
        self._model = model
        self._stored = stored
        self._head: bytes | None = b""

    async def whole(self, replica: Replica, body: bytes) -> None:
        """Before the answer leaves: its client may ask for it at once, and another ingress replica."""
        if id_ := self._id_in(body):
            await self._responses.keep(id_, self._model, replica)

    def chunk(self, replica: Replica, chunk: bytes, *, more: bool) -> bytes:
        if self._head is not None:
            self._search(replica, self._head + chunk)
        return chunk

    def _search(self, replica: Replica, head: bytes) -> None:
        self._head = head
        event, end, _ = self._head.partition(b"\n\n")
        if not end:
            if len(self._head) > MAX_EVENT:
                self._head = None
            return
        self._head = None
        data = next((line[5:] for line in event.splitlines() if line.startswith(b"data:")), b"")
        if id_ := self._id_in(data):
            self._responses.keep_soon(id_, self._model, replica)

    def _id_in(self, data: bytes) -> str | None:
        """data: a response, or an event that holds one."""
        try:
            answer: Any = json.loads(data)
            answer = answer.get("response", answer)
            stored = answer.get("store")
        except (ValueError, RecursionError, AttributeError):
            return None
        stored = self._stored if stored is None else stored
        id_ = answer.get("id")
        if isinstance(id_, str) and _ID.fullmatch(id_) and (stored or answer.get("background")):
            return id_
        return None
