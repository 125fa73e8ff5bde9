"""Every metric of ours: the one table of names, labels and buckets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

PREFIX = "llm_manager_"

_LATENCY_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
_TOKEN_S = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0)


@dataclass(frozen=True)
class Metric:
    """labels: beside `application`, which all have that processes tell. buckets: of a histogram."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    description: str
    labels: tuple[str, ...] = ("model",)
    buckets: tuple[float, ...] = ()

    @property
    def full_name(self) -> str:
        return PREFIX + self.name

    @property
    def samples(self) -> tuple[str, ...]:
        """Names under which Prometheus has it."""
        if self.kind != "histogram":
            return (self.full_name,)
        return tuple(f"{self.full_name}_{end}" for end in ("bucket", "sum", "count"))


REQUESTS = Metric("requests_total", "counter", "Requests to engines, by their status.", ("model", "path", "status"))
TTFT = Metric("time_to_first_token_seconds", "histogram", "Until the first byte of a stream.", buckets=_LATENCY_S)
TPOT = Metric(
    "time_per_output_token_seconds", "histogram", "Between two tokens of a stream, on average.", buckets=_TOKEN_S
)
QUEUE = Metric("queue_wait_seconds", "histogram", "Wait for a replica, loading included.", buckets=_LATENCY_S)
DURATION = Metric("request_seconds", "histogram", "Until the end of the answer.", buckets=_LATENCY_S)
PROMPT = Metric("prompt_tokens_total", "counter", "Tokens of prompts.")
COMPLETION = Metric("completion_tokens_total", "counter", "Tokens of answers.")
CACHED = Metric("cached_tokens_total", "counter", "Tokens of prompts that the engine had in its cache.")
CACHE_HITS = Metric("cache_hits_total", "counter", "Answers that came from the cache of results.")

SWAPS = Metric("swaps_total", "counter", "Starts and ends of models, and why.", ("model", "event", "reason"))
LOAD = Metric("load_seconds", "histogram", "From the decision to start a model until it answers.", buckets=_LATENCY_S)
RESIDENT = Metric("resident", "gauge", "1 while a model can answer, 0 otherwise.")
RESERVED = Metric("memory_reserved_bytes", "gauge", "Memory that a model's replicas reserve.")
MEASURED = Metric("memory_bytes", "gauge", "Memory that a model's replicas take.")
QUEUED = Metric("queued", "gauge", "Requests that wait for a replica.")

NODES = Metric("scraped_nodes", "gauge", "Nodes of the cluster that are on this page, and that are not.", ("answered",))
"""Of the page that shows them all."""

METRICS = (
    *(REQUESTS, TTFT, TPOT, QUEUE, DURATION, PROMPT, COMPLETION, CACHED, CACHE_HITS),
    *(SWAPS, LOAD, RESIDENT, RESERVED, MEASURED, QUEUED),
    NODES,
)
SAMPLES = frozenset(sample for metric in METRICS for sample in metric.samples)
"""Of all of them."""
