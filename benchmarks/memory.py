"""Whether the ingress keeps anything of the requests it has carried."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.load import Load, measure
from benchmarks.servers import FAST, OURS, haproxy_server

CONCURRENCY = 16
TOKENS = 16
SETTLE_S = 3.0  # leases have ended, what Ray batches has left


@dataclass(frozen=True)
class Size:
    """The ingress replica after `requests` requests, in MB of 2**20 bytes. uss: what no other process shares."""

    requests: int
    rss_mb: float
    uss_mb: float


@dataclass(frozen=True)
class Memory:
    first: Size
    last: Size
    broken: int
    problem: str

    @property
    def ratio(self) -> float:
        return self.last.uss_mb / self.first.uss_mb


def run(folder: Path, *, quick: bool) -> Memory:
    first, last = (200, 1000) if quick else (1000, 10_000)
    with haproxy_server(folder) as (child, urls):
        ingress = child.replica(OURS, "Ingress")
        sizes, broken, problem, done = [], 0, "", 0
        for requests in (first, last):
            streams = (requests - done) // CONCURRENCY * CONCURRENCY
            seen = measure(Load(urls[FAST], FAST, CONCURRENCY, streams, TOKENS, mixed=True))
            done = requests
            broken += seen.broken
            problem = seen.problem or problem
            time.sleep(SETTLE_S)
            sizes.append(_size(ingress, requests))
    return Memory(sizes[0], sizes[1], broken, problem)


def _size(process: psutil.Process, requests: int) -> Size:
    info = process.memory_full_info()
    return Size(requests, info.rss / 2**20, info.uss / 2**20)
