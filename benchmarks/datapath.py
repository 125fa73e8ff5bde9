"""What the way through the ingress costs, beside the bare engine and the usual Ray Serve way.

Usage: python -m benchmarks.datapath [--quick] [--rounds N] [--only datapath|memory] [--out FILE]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks import command, memory, report
from benchmarks.command import Result, say
from benchmarks.load import Load, Measure, measure
from benchmarks.memory import Memory
from benchmarks.report import PACED_LOAD, Round
from benchmarks.servers import FAST, PACE_MS, PACED, Urls, all_servers

SHARE = {"bare": 1.0, "handle": 0.1, "proxy": 0.25, "haproxy": 1.0, "keyed": 1.0}
"""Of a load's streams, so that a measurement of a slow server does not last much longer."""

QUICK_SHARE = 0.25
WARM_UP_STREAMS = 32
SPREAD_S = 2.0


@dataclass(frozen=True)
class Plan:
    """streams: of each load at full speed, by its concurrency."""

    rounds: int
    streams: Mapping[int, int]
    paced: int

    def loads(self, server: str, urls: Urls, number: int) -> dict[str, Load]:
        """What one round puts on a server, by the load's name."""
        loads = {}
        for concurrency, streams in self.streams.items():
            turns = max(1, round(streams * SHARE[server] / concurrency))
            loads[str(concurrency)] = Load(urls[FAST], FAST, concurrency, turns * concurrency)
        if server != "handle" or number == 0:  # far behind any pace: once is enough to say so
            loads[PACED_LOAD] = Load(urls[PACED], PACED, self.paced, self.paced, spread_s=SPREAD_S, pace_ms=PACE_MS)
        return loads


def plan_of(rounds: int, *, quick: bool) -> Plan:
    full = {1: 256, 8: 480, 32: 640}
    if not quick:
        return Plan(rounds, full, paced=200)
    return Plan(rounds, {c: max(c, round(n * QUICK_SHARE)) for c, n in full.items()}, paced=50)


def run(plan: Plan, folder: Path) -> list[Round]:
    with all_servers(folder) as servers:
        for name, urls in servers.items():
            say(f"warm-up of {name}")
            measure(Load(urls[FAST], FAST, 8, WARM_UP_STREAMS))
        rounds: list[Round] = []
        for number in range(plan.rounds):
            seen: Round = {}
            for name, urls in servers.items():
                for load_name, load in plan.loads(name, urls, number).items():
                    seen[name, load_name] = result = measure(load)
                    say(_line(number, name, load_name, result))
            rounds.append(seen)
    return rounds


def measured(options: argparse.Namespace, folder: Path) -> Result:
    rounds: list[Round] = []
    kept: Memory | None = None
    if options.only != "memory":
        rounds = run(plan_of(options.rounds, quick=options.quick), folder)
    if options.only != "datapath":
        say("memory of the ingress")
        kept = memory.run(folder, quick=options.quick)
    return Result(report.markdown(rounds, kept), report.problems(rounds, kept))


def main(arguments: list[str]) -> int:
    parser = command.parser("datapath", __doc__, rounds=5)
    parser.add_argument("--only", choices=["datapath", "memory"], help="run one part alone")
    return command.run(parser, arguments, measured)


def _line(number: int, server: str, load: str, seen: Measure) -> str:
    return (
        f"round {number + 1}: {server:8} {load:>7}: {seen.chunks_per_s:8.0f} chunks/s, "
        f"first byte {seen.ttft_p50_ms:6.1f} ms, worst behind {seen.behind:6.1%}, {seen.broken} broken"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
