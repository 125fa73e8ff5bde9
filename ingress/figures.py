"""What requests took in the past, as the keeper knows it: bodies of `/api/usage` and `/api/metrics/throughput`."""

from __future__ import annotations

from typing import Any

from deployments.keeper.client import KeeperClient
from deployments.usage.ranges import GroupBy
from ingress.catalog import Catalog


class Figures:
    def __init__(self, keeper: KeeperClient, catalog: Catalog) -> None:
        self._keeper = keeper
        self._names = {name: entry.name for entry in catalog for name in entry.names}

    async def usage(self, range_: str, model: str | None, key: str | None, group_by: GroupBy) -> dict[str, Any]:
        """Raises: KeeperGone."""
        asked = {**self._asked(range_, model, key), "group_by": group_by}
        found = await self._keeper.ask("/usage/sums", asked)
        message = f"{found['totals']['requests']} requests in the last {range_}."
        return {"success": True, "message": message, "range": range_, "group_by": group_by, **found}

    async def throughput(self, range_: str, model: str | None, key: str | None) -> dict[str, Any]:
        """Raises: KeeperGone."""
        found = await self._keeper.ask("/usage/throughput", self._asked(range_, model, key))
        series = series_of(found["rows"], found["since"], found["until"], found["bucket_s"])
        message = f"{len(series)} models in the last {range_}, {found['bucket_s']} s a point."
        return {
            "success": True,
            "message": message,
            "range": range_,
            "bucket_s": found["bucket_s"],
            "models": series,
        }

    def _asked(self, range_: str, model: str | None, key: str | None) -> dict[str, Any]:
        """Models go by the name that they are recorded under; one that is not configured any more has a past too."""
        return {"range": range_, "model": self._names.get(model, model) if model else None, "key": key}


def series_of(rows: list[dict[str, Any]], since: float, until: float, bucket_s: int) -> dict[str, list[dict[str, Any]]]:
    """Rates of each model in each bucket, those without requests included; of the last one, for as long as it lasts."""
    seen: dict[str, dict[int, dict[str, Any]]] = {}
    for row in rows:
        seen.setdefault(row["model"], {})[row["time"]] = row
    starts = range(int(since) - int(since) % bucket_s, int(until) + 1, bucket_s)
    return {
        model: [_point(start, buckets.get(start, {}), min(bucket_s, max(1.0, until - start))) for start in starts]
        for model, buckets in seen.items()
    }


def _point(start: int, row: dict[str, Any], seconds: float) -> dict[str, Any]:
    def rate(name: str) -> float:
        count: int = row.get(name, 0)
        return round(count / seconds, 4)

    return {
        "time": start,
        "requests_per_s": rate("requests"),
        "tokens_per_s": rate("total_tokens"),
        "prompt_tokens_per_s": rate("prompt_tokens"),
        "completion_tokens_per_s": rate("completion_tokens"),
    }
