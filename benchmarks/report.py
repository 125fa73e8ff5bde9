"""The tables, from what was measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from statistics import median

from benchmarks.load import Measure
from benchmarks.memory import Memory
from benchmarks.tables import Row, machine, table, target, targets, told

Round = dict[tuple[str, str], Measure]
"""What one round saw, by server and load."""

PACED_LOAD = "paced"
MOST = "32"  # streams at once, at full speed


def markdown(rounds: Sequence[Round], memory: Memory | None) -> str:
    parts = [
        f"{machine('ray')}; medians of {len(rounds)} interleaved rounds; client, server and engine share the machine."
    ]
    rows: list[Row] = []
    if rounds:
        parts.append(table(_MEASURES, _measures(rounds)))
        rows += _datapath_targets(rounds)
    if memory:
        parts.append(table(("requests", "RSS MB", "USS MB"), _sizes(memory)))
        rows.append(target("memory after the last / the first (USS)", memory.ratio, 1.05, most=True))
    parts.append(targets(rows))
    return "\n\n".join(parts) + "\n"


def problems(rounds: Sequence[Round], memory: Memory | None) -> list[str]:
    """A line for each measurement that saw an answer that was not whole."""
    found = [
        f"{server}, load {load}, round {number}: {seen.broken} broken answers: {seen.problem}"
        for number, measured in enumerate(rounds, 1)
        for (server, load), seen in measured.items()
        if seen.broken
    ]
    if memory and memory.broken:
        found.append(f"memory: {memory.broken} broken answers: {memory.problem}")
    return found


_MEASURES = (
    "server",
    "load",
    "chunks/s",
    "TTFT p50 ms",
    "TTFT p99 ms",
    "gap p99 ms",
    "ratio to bare",
    "worst stream behind its pace",
)


def _measures(rounds: Sequence[Round]) -> Iterable[Row]:
    for server, load in rounds[0]:
        paced = load == PACED_LOAD
        yield (
            server,
            load,
            f"{_median(rounds, server, load, lambda m: m.chunks_per_s):,.0f}",
            f"{_median(rounds, server, load, lambda m: m.ttft_p50_ms):.1f}",
            f"{_median(rounds, server, load, lambda m: m.ttft_p99_ms):.1f}",
            f"{_median(rounds, server, load, lambda m: m.gap_p99_ms):.1f}",
            "" if paced else f"{_speed_ratio(rounds, server, 'bare', load):.2f}",
            f"{_most_behind(rounds, server):.1%}" if paced else "",
        )


def _datapath_targets(rounds: Sequence[Round]) -> Iterable[Row]:
    at_most = f"chunks/s at {MOST} streams"
    yield target(f"{at_most}: haproxy / bare", _speed_ratio(rounds, "haproxy", "bare", MOST), 0.5)
    yield target(f"{at_most}: proxy / bare", _speed_ratio(rounds, "proxy", "bare", MOST), 0.2)
    yield target(f"{at_most}: haproxy / handle", _speed_ratio(rounds, "haproxy", "handle", MOST), 15)
    yield target(f"{at_most}: keyed / haproxy", _speed_ratio(rounds, "keyed", "haproxy", MOST), 0.95)
    yield told(f"{at_most}: proxy / handle", f"{_speed_ratio(rounds, 'proxy', 'handle', MOST):.1f}")
    yield target("TTFT added at 1 stream, ms: haproxy", _ttft_added(rounds, "haproxy"), 5, most=True)
    yield told("TTFT added at 1 stream, ms: proxy", f"{_ttft_added(rounds, 'proxy'):.1f}")
    yield target("worst paced stream, % behind: haproxy", _most_behind(rounds, "haproxy") * 100, 2, most=True)
    yield told("worst paced stream, % behind: proxy", f"{_most_behind(rounds, 'proxy') * 100:.2f}")


def _median(rounds: Sequence[Round], server: str, load: str, of: Callable[[Measure], float]) -> float:
    return median(of(seen[server, load]) for seen in rounds if (server, load) in seen)


def _speed_ratio(rounds: Sequence[Round], server: str, other: str, load: str) -> float:
    return median(seen[server, load].chunks_per_s / (seen[other, load].chunks_per_s or 1) for seen in rounds)


def _ttft_added(rounds: Sequence[Round], server: str) -> float:
    return median(seen[server, "1"].ttft_p50_ms - seen["bare", "1"].ttft_p50_ms for seen in rounds)


def _most_behind(rounds: Sequence[Round], server: str) -> float:
    return max(seen[server, PACED_LOAD].behind for seen in rounds if (server, PACED_LOAD) in seen)


def _sizes(memory: Memory) -> Iterable[Row]:
    for size in (memory.first, memory.last):
        yield (f"{size.requests:,}", f"{size.rss_mb:.1f}", f"{size.uss_mb:.1f}")
