"""The models' logs, as the keeper has them."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from starlette.responses import Response

from deployments.errors import KeeperGone
from deployments.keeper.client import KeeperClient
from ingress.catalog import Catalog, Entry
from ingress.forward import Forwarder, Upstream


class Logs:
    """An adapter's log is its base's, that of a model in a pool its pool's: it is the processes that print."""

    def __init__(self, keeper: KeeperClient, forwarder: Forwarder) -> None:
        self._keeper = keeper
        self._forwarder = forwarder

    async def stream(self, entry: Entry) -> Response:
        """Server-sent events, as the keeper writes them. Raises: KeeperGone."""
        await self._keeper.ask("/logs/stats")  # it may have been restarted: then this finds it
        upstream = Upstream(f"/api/logs/stream?{urlencode({'model': entry.deployment_name})}", {}, b"", "GET")
        gone = KeeperGone("The logs are away for a moment.", retry_after_s=1)
        return self._forwarder.answer_of(await self._keeper.address(), upstream, gone, timeout_s=None, lost=gone)

    async def stats(self, entries: Catalog) -> dict[str, Any]:
        """Raises: KeeperGone."""
        kept = await self._keeper.ask("/logs/stats")
        nothing = {"log_count": 0, "subscriber_count": 0}
        by_log = {entry.deployment_name: kept.get(entry.deployment_name, nothing) for entry in entries}
        by_model = {entry.name: by_log[entry.deployment_name] for entry in entries}
        return {
            "total_models": len(by_model),
            "total_log_entries": sum(one["log_count"] for one in by_log.values()),
            "models_with_logs": sum(one["log_count"] > 0 for one in by_model.values()),
            "total_subscribers": sum(one["subscriber_count"] for one in by_log.values()),
            "model_stats": by_model,
        }

    async def clear(self, entry: Entry, keep_minutes: float) -> int:
        """Returns how many lines were deleted. Raises: KeeperGone."""
        asked = {"model": entry.deployment_name, "keep_minutes": keep_minutes}
        return int((await self._keeper.ask("/logs/clear", asked))["deleted"])
