"""The cache as a part of the keeper. Its answers are in memory, and go with the process."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from deployments.cache import wire
from deployments.cache.answers import Answer, Answers, Flight
from deployments.hangup import ClientGone, unless_gone


class CachePart:
    def __init__(self, answers: Answers) -> None:
        self._answers = answers

    @property
    def routes(self) -> Sequence[BaseRoute]:
        handlers = {
            wire.LOOK: self._look,
            wire.JOIN: self._join,
            wire.STORE: self._store,
            wire.CLEAR: self._clear,
            wire.STATS: self._stats,
        }
        return [Route(path, handler, methods=["POST"]) for path, handler in handlers.items()]

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        pass

    async def _look(self, request: Request) -> Response:
        key, model = request.headers[wire.KEY], request.headers[wire.MODEL]
        return self._told(key, self._answers.look(key, model))

    async def _join(self, request: Request) -> Response:
        key, model = request.headers[wire.KEY], request.headers[wire.MODEL]
        await request.body()
        try:
            return self._told(key, await unless_gone(request.receive, self._answers.join(key, model)))
        except ClientGone:
            return Response(status_code=wire.BUSY)  # nobody reads it

    async def _store(self, request: Request) -> Response:
        headers = request.headers
        answer = Answer(
            model=headers[wire.MODEL],
            content_type=headers[wire.TYPE],
            body=await request.body(),
            ttl_s=float(headers[wire.TTL]),
            stored_at=self._answers.clock(),
        )
        self._answers.store(headers[wire.KEY], answer, headers.get(wire.FLIGHT))
        return Response(status_code=204)

    async def _clear(self, request: Request) -> Response:
        return JSONResponse(self._answers.clear(await request.json()))

    async def _stats(self, _: Request) -> Response:
        return JSONResponse(self._answers.stats())

    def _told(self, key: str, found: Answer | Flight | None) -> Response:
        if found is None:
            return Response(status_code=wire.BUSY)
        if isinstance(found, Flight):
            return _Open(self._answers, key, found)
        age = self._answers.clock() - found.stored_at
        return Response(found.body, wire.HIT, {wire.AGE: str(int(age)), wire.TYPE: found.content_type})


class _Open(Response):
    """Lasts as long as the flight. Whoever computes may die at any moment: its connection tells."""

    def __init__(self, answers: Answers, key: str, flight: Flight) -> None:
        super().__init__(status_code=wire.COMPUTE, headers={wire.FLIGHT: flight.id})
        del self.headers["content-length"]
        self._answers = answers
        self._key = key
        self._flight = flight

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await send({"type": "http.response.body", "body": b"", "more_body": True})
            await unless_gone(receive, self._flight.over.wait())
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except ClientGone:
            pass
        finally:
            self._answers.end(self._key, self._flight)
