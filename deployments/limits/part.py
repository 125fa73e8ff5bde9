"""The keeper's sum of what ingress replicas have counted. It lies in memory alone: each report has all that counts."""

from __future__ import annotations

import time
from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from deployments.limits.counts import Counts, minute_of

PATH = "/limits"


class LimitsPart:
    """`POST /limits {replica, used}` → `{others}`: a replica's counts against those of all the others."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.routes = [Route(PATH, self._exchange, methods=["POST"])]
        self._clock = clock
        self._reports: dict[str, Counts] = {}

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        pass

    async def _exchange(self, request: Request) -> Response:
        told = await request.json()
        self._reports[told["replica"]] = Counts.of(told["used"])
        self._forget()
        others = (counts for replica, counts in self._reports.items() if replica != told["replica"])
        return JSONResponse({"others": Counts.sum(others).plain()})

    def _forget(self) -> None:
        """Those that are gone count as long as the window is."""
        for counts in self._reports.values():
            counts.forget_before(minute_of(self._clock()) - 1)
        self._reports = {replica: counts for replica, counts in self._reports.items() if counts}
