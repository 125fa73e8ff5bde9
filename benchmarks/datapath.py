"""What the way through the ingress costs, beside the bare engine and the usual Ray Serve way.

Usage: python -m benchmarks.datapath [--quick] [--rounds N] [--only datapath|memory] [--out FILE]
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks import memory, report
from benchmarks.load import Load, Measure, measure
from benchmarks.memory import Memory
from benchmarks.report import PACED_LOAD, Round
from benchmarks.servers import FAST, PACE_MS, PACED, Urls, all_servers

SHARE = {"bare": 1.0, "handle": 0.1, "proxy": 0.25, "haproxy": 1.0}
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


def plan_of(rounds: int | None, *, quick: bool) -> Plan:
    full = {1: 256, 8: 480, 32: 640}
    if not quick:
        return Plan(rounds or 5, full, paced=200)
    return Plan(rounds or 1, {c: max(c, round(n * QUICK_SHARE)) for c, n in full.items()}, paced=50)


def run(plan: Plan, folder: Path) -> list[Round]:
    with all_servers(folder) as servers:
        for name, urls in servers.items():
            _say(f"warm-up of {name}")
            measure(Load(urls[FAST], FAST, 8, WARM_UP_STREAMS))
        rounds: list[Round] = []
        for number in range(plan.rounds):
            seen: Round = {}
            for name, urls in servers.items():
                for load_name, load in plan.loads(name, urls, number).items():
                    seen[name, load_name] = result = measure(load)
                    _say(_line(number, name, load_name, result))
            rounds.append(seen)
    return rounds


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.datapath", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a short check: one round, fewer streams")
    parser.add_argument("--rounds", type=int, help="default 5, with --quick 1")
    parser.add_argument("--only", choices=["datapath", "memory"], help="run one part alone")
    parser.add_argument("--out", type=Path, help="write the tables to this file too")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the servers are ended

    folder = Path(tempfile.mkdtemp(prefix="llm-manager-bench-"))
    rounds: list[Round] = []
    kept: Memory | None = None
    try:
        if options.only != "memory":
            rounds = run(plan_of(options.rounds, quick=options.quick), folder)
        if options.only != "datapath":
            _say("memory of the ingress")
            kept = memory.run(folder, quick=options.quick)
    except BaseException:
        _say(f"failed; the servers' logs are in {folder}")
        raise
    text = report.markdown(rounds, kept)
    print(text)
    if options.out:
        options.out.write_text(text)
    problems = report.problems(rounds, kept)
    for problem in problems:
        _say(problem)
    if problems:
        _say(f"the servers' logs are in {folder}")
        return 1
    shutil.rmtree(folder)
    return 0


def _line(number: int, server: str, load: str, seen: Measure) -> str:
    return (
        f"round {number + 1}: {server:8} {load:>7}: {seen.chunks_per_s:8.0f} chunks/s, "
        f"first byte {seen.ttft_p50_ms:6.1f} ms, worst behind {seen.behind:6.1%}, {seen.broken} broken"
    )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
