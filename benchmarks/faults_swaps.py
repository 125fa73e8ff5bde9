"""Swaps under load: more models than places, each client asks for another one each time."""

from __future__ import annotations

import asyncio
import itertools
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import faults_load
from benchmarks.command import say
from benchmarks.faults_load import Load, Outcome
from benchmarks.servers import AS_SERVED, Child, ours, serve_run
from benchmarks.tables import Row

NAME = "swaps"
MODELS = tuple(f"m{number}" for number in range(6))
MOST_UP = 2
CLIENTS = 4
TOKENS = 20
PACE_MS = 10
LOOK_S = 2.0
TOLD = 15  # each so many looks a line says how it stands

_START = re.compile(r"Model \S+: 0 -> \d+ \(")


@dataclass(frozen=True)
class Swaps:
    """swaps: starts of models for which another one had to go."""

    swaps: int
    seconds: float
    answers: list[faults_load.Answer]

    def problems(self) -> list[str]:
        return [f"{a.model}: {a.outcome.value}: {a.detail}" for a in self.answers if a.outcome is not Outcome.WHOLE]


def application(data_dir: Path) -> dict[str, Any]:
    models = [{"name": name, "engine": "echo", "engine_args": {"interval_ms": PACE_MS}} for name in MODELS]
    return ours(NAME, "/", models, most_up=MOST_UP, data_dir=str(data_dir), ingress_replicas=2)


def run(wanted: int, folder: Path) -> Swaps:
    with serve_run(folder, NAME, [application(folder / "data")], AS_SERVED, models=MODELS[:1]) as (child, url):
        return asyncio.run(_swap(child, url, wanted))


async def _swap(child: Child, url: str, wanted: int) -> Swaps:
    load = Load(url, MODELS[0], ())
    await load.open()
    before, began = starts(child), time.monotonic()
    stopping = asyncio.Event()
    clients = [asyncio.create_task(_client(load, number, stopping)) for number in range(CLIENTS)]
    swaps = 0
    for look in itertools.count(1):
        await asyncio.sleep(LOOK_S)
        swaps = await asyncio.to_thread(starts, child) - before
        if look % TOLD == 0 or swaps >= wanted:
            failed = sum(answer.outcome is not Outcome.WHOLE for answer in load.answers)
            say(f"{swaps} swaps in {time.monotonic() - began:.0f} s, {len(load.answers)} answers, {failed} not whole")
        if swaps >= wanted:
            break
    seconds = time.monotonic() - began
    stopping.set()
    await asyncio.gather(*clients)
    await load.close()
    return Swaps(swaps, seconds, load.answers)


async def _client(load: Load, number: int, stopping: asyncio.Event) -> None:
    """Streams in every second round."""
    for turn in itertools.count(number):
        if stopping.is_set():
            return
        await load.ask(MODELS[turn % len(MODELS)], TOKENS, stream=turn // len(MODELS) % 2 == 0)


def starts(child: Child) -> int:
    """Of models, as the policy has decided and logged."""
    logs = child.serve_logs().glob("controller_*.log*")
    return sum(len(_START.findall(log.read_text(errors="replace"))) for log in logs)


def row_of(seen: Swaps) -> Row:
    found = faults_load.counts(seen.answers)
    return (
        str(seen.swaps),
        f"{seen.seconds:.0f}",
        f"{seen.swaps / seen.seconds * 60:.1f}",
        str(len(seen.answers)),
        *(str(found[outcome]) for outcome in (Outcome.UNBEGUN, Outcome.EVENT, Outcome.BROKEN, Outcome.SILENT)),
    )


HEAD = ("swaps", "seconds", "swaps a minute", "requests", "failed", "error event", "connection lost", "silent")
