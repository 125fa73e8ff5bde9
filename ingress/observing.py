"""All that reads along requests to engines, put together: records, metrics, the log, traces."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ray import serve
from starlette.requests import Request

from deployments.config import Settings
from deployments.keeper.client import KeeperClient
from deployments.logs.quiet import SERVES_LOGGER
from deployments.metrics.meters import RayMeters
from ingress import metrics, request_log, traces, usage
from ingress.activity import Activity
from ingress.forward import Upstream
from ingress.onlooker import Onlooker
from ingress.outbox import Outbox, Told
from ingress.records import Account, Records
from ingress.running import Running
from ingress.traces import Trace, Traces


class Observed:
    """One request. onlookers: those who see its answer."""

    def __init__(self, path: str, account: Account, trace: Trace | None) -> None:
        self._path = path
        self._account = account
        self._trace = trace
        self.onlookers: list[Onlooker] = [account] if trace is None else [account, trace]

    def of(self, model: str) -> None:
        """model: its public name."""
        self._account.model = model
        if self._trace is not None:
            self._trace.of(model)

    def reads(self, body: bytes, data: Mapping[str, Any]) -> bytes:
        """The tokens of the answer are read. Returns the body for the engine. data: what it says."""
        asking = usage.asking(self._path, body, data)
        self._account.reader = usage.Reader(hides=asking is not None, events=self._path in usage.ASKED)
        return body if asking is None else asking

    def cached(self) -> None:
        """The answer is one that was kept: no engine has any part in it."""
        self._account.from_cache = True
        for onlooker in self.onlookers:
            onlooker.ended(200)

    def traced(self, upstream: Upstream) -> Upstream:
        if self._trace is None:
            return upstream
        return replace(upstream, headers={**upstream.headers, **self._trace.headers})


class Observing:
    def __init__(
        self, records: Records, activity: Activity, outbox: Outbox | None = None, traces: Traces | None = None
    ) -> None:
        self.records = records
        self.activity = activity
        self._outbox = outbox
        self._traces = traces

    def begin(self, request: Request, path: str) -> Observed:
        """path: of the endpoint."""
        trace = None if self._traces is None else self._traces.begin(request, path)
        return Observed(path, self.records.begin(request, path), trace)

    async def stop(self) -> None:
        """Nothing that has ended is lost."""
        self.activity.stop()
        if self._outbox is not None:
            await self._outbox.stop()
        if self._traces is not None:
            await asyncio.to_thread(self._traces.stop)


def start(settings: Settings, keeper: KeeperClient) -> Observing:
    """Of this replica of the ingress, on its event loop."""
    context = serve.get_replica_context()
    replica = context.replica_id.unique_id
    told: list[Told] = [metrics.told(RayMeters(context.app_name, metrics.OWN))]
    if settings.request_log:
        request_log.open_beside(logging.getLogger(SERVES_LOGGER), f"{context.app_name}_{replica}")
        told.append(request_log.write)
    outbox = Outbox(keeper, told)
    outbox.start()
    records, running = Records(replica), Running()
    records.on_begun.append(running.begun)
    records.on_finished += [outbox.add, running.ended]
    activity = Activity(running, keeper, replica)
    activity.start()
    tracing = traces.exporting(settings.traces) if traces.wanted(settings.traces, os.environ) else None
    return Observing(records, activity, outbox, tracing)
