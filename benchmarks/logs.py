"""Logs at full speed: one model prints, many readers listen, and none may miss a line.

Usage: python -m benchmarks.logs [--quick] [--rounds N] [--rate LINES] [--readers N] [--out FILE]

The lines are written to the file that the model's process prints to, by another process: as if it printed them.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles

import aiohttp
import httpx
import psutil

from benchmarks import command
from benchmarks.command import Result, say
from benchmarks.servers import AS_SERVED, Child, ours, serve_run
from benchmarks.tables import machine, table, target, targets, told

NAME, MODEL = "logs", "talks"
SECONDS = 10.0
QUICK_S = 3.0
STEP_S = 0.02  # between two writes
PADDING = "x" * 60
PATIENCE_S = 120.0
SAMPLE = 10  # every so many lines one is timed
WATCHED = {"keeper": "Keeper", "model": MODEL, "ingress": "Ingress"}
"""Processes whose CPU time is told, by Serve's names."""

_LINE = re.compile(rb'"message":"round (\d+) line (\d+) at (\d+\.\d+) ')


@dataclass(frozen=True)
class Heard:
    """By one reader. wrong: lines that were not the next one. delays: seconds from print to reader, of a sample. began,
    ended: when the first line was printed and the last one was here, in seconds since 1970."""

    lines: int
    wrong: int
    delays: Sequence[float]
    began: float
    ended: float


@dataclass(frozen=True)
class Round:
    """cpu: cores, by the names of WATCHED."""

    written: int
    heard: Sequence[Heard]
    cpu: dict[str, float]

    @property
    def seconds(self) -> float:
        """Until the last reader had the last line."""
        return max(one.ended for one in self.heard) - min(one.began for one in self.heard)

    @property
    def delays_ms(self) -> tuple[float, float]:
        """The median and the 99th percentile."""
        cuts = quantiles((1000 * delay for one in self.heard for delay in one.delays), n=100)
        return cuts[49], cuts[98]


def write(path: str, number: int, rate: float, seconds: float) -> int:
    """Returns how many lines."""
    began = time.monotonic()
    line, count = 0, int(rate * seconds)
    with open(path, "ab", buffering=0) as file:
        while line < count:
            due = min(count, int((time.monotonic() - began) * rate))
            at = time.time()
            file.write(b"".join(f"round {number} line {n} at {at:.6f} {PADDING}\n".encode() for n in range(line, due)))
            line = max(line, due)
            time.sleep(STEP_S)
    return count


async def listen(session: aiohttp.ClientSession, url: str, number: int, count: int, ready: asyncio.Event) -> Heard:
    """Returns once the round's last line is here."""
    lines, wrong, delays, rest, began, now = 0, 0, [], b"", 0.0, 0.0
    async with session.get(f"{url}/api/models/{MODEL}/logs/stream") as answer:
        async for chunk in answer.content.iter_any():
            now = time.time()
            whole, _, rest = (rest + chunk).rpartition(b"\n\n")
            if b"historical_complete" in whole:
                ready.set()
            for found in _LINE.finditer(whole):
                if int(found[1]) != number:
                    continue  # of the history
                began = began or float(found[3])
                wrong += int(found[2]) != lines
                if lines % SAMPLE == 0:
                    delays.append(now - float(found[3]))
                lines += 1
            if lines >= count:
                break
    return Heard(lines, wrong, delays, began, now)


async def measure(child: Child, url: str, number: int, options: argparse.Namespace) -> Round:
    seconds = QUICK_S if options.quick else SECONDS
    count = int(options.rate * seconds)
    processes = {what: child.replica(NAME, deployment) for what, deployment in WATCHED.items()}
    path = os.readlink(f"/proc/{processes['model'].pid}/fd/1")
    ready = [asyncio.Event() for _ in range(options.readers)]
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        listening = [asyncio.create_task(listen(session, url, number, count, one)) for one in ready]
        await asyncio.gather(*(one.wait() for one in ready))
        before = {what: _cpu_s(process) for what, process in processes.items()}
        began = time.monotonic()
        writer = multiprocessing.get_context("spawn").Process(target=write, args=(path, number, options.rate, seconds))
        writer.start()
        async with asyncio.timeout(seconds + PATIENCE_S):
            heard = await asyncio.gather(*listening)
        took = time.monotonic() - began
    await asyncio.to_thread(writer.join)
    cpu = {what: (_cpu_s(process) - before[what]) / took for what, process in processes.items()}
    return Round(count, heard, cpu)


def run(options: argparse.Namespace, folder: Path) -> list[Round]:
    models = [{"name": MODEL, "engine": "echo", "auto_start": True, "idle_timeout_s": 0}]
    application = ours(NAME, "/", models, data_dir=str(folder / "data"))
    rounds = []
    with serve_run(folder, NAME, [application], AS_SERVED, models=[MODEL]) as (child, url):
        for number in range(options.rounds):
            rounds.append(asyncio.run(measure(child, url, number, options)))
            p50, p99 = rounds[-1].delays_ms
            say(f"round {number + 1}: {rounds[-1].seconds:.1f} s, {p50:.0f} ms, p99 {p99:.0f} ms")
            httpx.post(f"{url}/api/logs/{MODEL}/clear", timeout=60).raise_for_status()
    return rounds


def markdown(rounds: Sequence[Round], options: argparse.Namespace) -> str:
    rows = [
        (
            str(number),
            f"{one.written}",
            f"{one.written / one.seconds:.0f}",
            *(f"{delay:.0f}" for delay in one.delays_ms),
            *(f"{one.cpu[what]:.2f}" for what in WATCHED),
        )
        for number, one in enumerate(rounds, 1)
    ]
    head = ("round", "lines", "lines/s to all", "delay p50, ms", "p99, ms", *(f"{what}, cores" for what in WATCHED))
    missed = sum(one.written - heard.lines + heard.wrong for one in rounds for heard in one.heard)
    parts = [
        f"{machine('ray')}; {options.rate:g} lines/s to {options.readers} readers.",
        table(head, rows),
        targets(
            [
                target("lines that a reader missed or got out of order", missed, 0, most=True),
                told("print to reader, median of the rounds' p99", f"{median(r.delays_ms[1] for r in rounds):.0f} ms"),
            ]
        ),
    ]
    return "\n\n".join(parts) + "\n"


def problems(rounds: Sequence[Round]) -> list[str]:
    return [
        f"round {number}, reader {i}: {heard.lines} of {one.written} lines, {heard.wrong} out of order"
        for number, one in enumerate(rounds, 1)
        for i, heard in enumerate(one.heard)
        if heard.lines != one.written or heard.wrong
    ]


def measured(options: argparse.Namespace, folder: Path) -> Result:
    rounds = run(options, folder)
    return Result(markdown(rounds, options), problems(rounds))


def main(arguments: list[str]) -> int:
    parser = command.parser("logs", __doc__, rounds=3)
    parser.add_argument("--rate", type=float, default=10_000, help="lines a second; default 10000")
    parser.add_argument("--readers", type=int, default=20, help="default 20")
    return command.run(parser, arguments, measured)


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
