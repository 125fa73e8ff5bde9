"""Prometheus: what records of requests say, and the page that shows the whole cluster's metrics."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

import aiohttp

from deployments.metrics import names
from deployments.metrics.meters import Meters, Sample
from deployments.metrics.names import PREFIX, Metric
from deployments.usage.record import Record

OWN = (
    *(names.REQUESTS, names.TTFT, names.TPOT, names.QUEUE, names.DURATION),
    *(names.PROMPT, names.COMPLETION, names.CACHED, names.CACHE_HITS),
)
"""Metrics that the ingress tells."""

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
FETCH_S = 3.0
RAYS_PREFIX = "ray_"
SERVES = frozenset(
    {
        "serve_deployment_replica_healthy",
        "serve_deployment_queued_queries",
        "serve_deployment_status",
        "serve_proxy_status",
    }
)
"""Of Serve's own metrics, the useful ones."""

_NAME = re.compile(r"(?:# (?:HELP|TYPE) )?(?:ray_)?([a-zA-Z_:][a-zA-Z0-9_:]*)")
_SUFFIX = re.compile(r"_(bucket|sum|count)$")


def told(meters: Meters) -> Callable[[Sequence[Record]], None]:
    """Tells the meters of records."""
    return lambda records: meters.tell(samples(records))


def samples(records: Iterable[Record]) -> Iterator[Sample]:
    counts: Counter[tuple[Metric, tuple[str, ...]]] = Counter()
    for record in records:
        model = (record.model,)
        counts[names.REQUESTS, (record.model, record.path, str(record.status))] += 1
        counts[names.PROMPT, model] += record.prompt_tokens
        counts[names.COMPLETION, model] += record.completion_tokens
        counts[names.CACHED, model] += record.cached_tokens
        counts[names.CACHE_HITS, model] += record.from_cache
        yield Sample(names.DURATION, record.total_ms / 1000, model)
        yield Sample(names.QUEUE, record.queue_ms / 1000, model)
        if record.streamed and record.ttft_ms is not None:
            yield Sample(names.TTFT, record.ttft_ms / 1000, model)
            if record.completion_tokens > 1:
                took = (record.total_ms - record.ttft_ms) / 1000
                yield Sample(names.TPOT, took / (record.completion_tokens - 1), model)
    for (metric, labels), count in counts.items():
        yield Sample(metric, count, labels)


class Page:
    """Asks each node's agent of Ray, all at once."""

    def __init__(self, agents: Callable[[], Sequence[str]]) -> None:
        """agents: their URLs; it may block."""
        self._agents = agents

    async def text(self) -> str:
        urls = await asyncio.to_thread(self._agents)
        timeout = aiohttp.ClientTimeout(total=FETCH_S)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            pages = await asyncio.gather(*[_fetched(session, url) for url in urls])
        there = [page for page in pages if page is not None]
        return joined(there) + _nodes(answered=len(there), missing=len(pages) - len(there))


def agents_of(nodes: Iterable[dict[str, object]]) -> list[str]:
    """From Ray's list of nodes."""
    return [
        f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
        for node in nodes
        if node["Alive"] and node.get("MetricsExportPort")
    ]


def joined(pages: Iterable[str]) -> str:
    """Our metrics and the useful ones of Serve, each once with the samples of all nodes, under our names: without what
    Ray puts before them."""
    heads: dict[str, list[str]] = {}
    found: dict[str, list[str]] = {}
    for page in pages:
        for line in page.splitlines():
            if (match := _NAME.match(line)) is None:
                continue
            name = match[1]
            family = _SUFFIX.sub("", name)
            if name.endswith("_created") or not (family.startswith(PREFIX) or family in SERVES):
                continue
            line = line.replace(RAYS_PREFIX + name, name, 1)
            if not line.startswith("#"):
                found.setdefault(family, []).append(line)
            elif family not in found and line not in heads.setdefault(family, []):
                heads[family].append(line)
    return "".join(f"{line}\n" for family, lines in found.items() for line in (*heads.get(family, ()), *lines))


async def _fetched(session: aiohttp.ClientSession, url: str) -> str | None:
    try:
        async with session.get(url) as answer:
            return await answer.text() if answer.status == 200 else None
    except (aiohttp.ClientError, TimeoutError, OSError):
        return None


def _nodes(*, answered: int, missing: int) -> str:
    name = names.NODES.full_name
    head = f"# HELP {name} {names.NODES.description}\n# TYPE {name} gauge\n"
    return f'{head}{name}{{answered="yes"}} {answered}\n{name}{{answered="no"}} {missing}\n'
