"""Faults under load: what clients see when a process of the server is killed, hangs, or has no disk left.

Usage: python -m benchmarks.faults [--quick] [--only NAME …] [--swaps N] [--out FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import command, faults_load, faults_swaps
from benchmarks.command import Result, say
from benchmarks.faults_acts import AT_CLUSTER, AT_HAPROXY, AT_SERVES_PROXY, AT_VLLM, Fault
from benchmarks.faults_cluster import cluster
from benchmarks.faults_load import Answer, Load, Outcome
from benchmarks.faults_server import AIMED, OTHER, REAL, USUAL, VLLM, World, application
from benchmarks.load import HOST
from benchmarks.servers import AS_SERVED, behind_haproxy, free_port, serve_run
from benchmarks.tables import Row, machine, table

BEFORE_S, QUICK_BEFORE_S = 5.0, 2.0
AFTER_S, QUICK_AFTER_S = 15.0, 8.0
"""Load before a fault, and at least so much after it."""
CALM_S = 5.0  # without any trouble, after which a fault is over
LOOK_S = 0.1
DISK_MB = 8


@dataclass(frozen=True)
class Seen:
    """at: when it happened, seconds of time.monotonic."""

    fault: Fault
    where: str
    at: float
    answers: Sequence[Answer]


async def under_load(world: World, fault: Fault, where: str, *, quick: bool) -> Seen:
    load = Load(world.url, fault.hit, world.streams, fault.every_s)
    await load.start()
    await asyncio.sleep(QUICK_BEFORE_S if quick else BEFORE_S)
    with fault.act(world):
        at = time.monotonic()
        await asyncio.sleep(QUICK_AFTER_S if quick else AFTER_S)
        while not _is_over(load.answers, fault, at):  # noqa: ASYNC110  # of an answer that does not come there is no event
            await asyncio.sleep(LOOK_S)
        await load.stop()
    return Seen(fault, where, at, load.answers)


def _is_over(answers: Sequence[Answer], fault: Fault, at: float) -> bool:
    gone_s = time.monotonic() - at
    calm = gone_s - faults_load.troubled_s(answers, at) > CALM_S
    return gone_s > fault.waits_s or (calm and faults_load.recovered_s(answers, fault.hit, at) is not None)


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of few MB."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@contextmanager
def one_node(
    folder: Path,
    name: str,
    env: Mapping[str, str],
    names: Sequence[str] = USUAL,
    asked: Sequence[str] = (AIMED, OTHER, REAL),
) -> Iterator[World]:
    """asked: of the models, those under load."""
    with (
        small_disk(folder / f"{name}-data") as data,
        serve_run(folder, name, [application(data, names)], {**AS_SERVED, **env}, models=asked) as served,
    ):
        yield World(*served, folder, data, asked)


@contextmanager
def two_nodes(folder: Path) -> Iterator[World]:
    models, port = (AIMED, OTHER), free_port()
    with cluster(folder) as nodes:
        nodes.deploy(application(folder / "cluster-data", models), port)
        url = f"http://{HOST}:{port}"
        nodes.wait_ready(dict.fromkeys(models, url))
        yield World(nodes, url, folder, folder / "cluster-data", models)


@dataclass(frozen=True)
class Group:
    """Faults that happen to one server, one after the other."""

    where: str
    faults: Mapping[str, Fault]
    served: Callable[[Path], AbstractContextManager[World]]


GROUPS = (
    Group("Serve's proxy", AT_SERVES_PROXY, lambda folder: one_node(folder, "proxy", {})),
    Group("HAProxy", AT_HAPROXY, lambda folder: one_node(folder, "haproxy", behind_haproxy())),
    Group("Serve's proxy", AT_VLLM, lambda folder: one_node(folder, "vllm", {}, (VLLM, AIMED), (VLLM, AIMED))),
    Group("Serve's proxies", AT_CLUSTER, two_nodes),
)
NAMES = tuple(name for group in GROUPS for name in group.faults)


def run(group: Group, chosen: Sequence[str], folder: Path, quick: bool) -> Iterator[Seen]:
    with group.served(folder) as world:
        for name in chosen:
            fault = group.faults[name]
            world.wait_whole()
            with fault.before(world):
                say(f"{name}: {fault.what}")
                seen = asyncio.run(under_load(world, fault, group.where, quick=quick))
            say(f"{name}: " + ", ".join(row_of(seen)[2:]))
            for line in problems(seen):
                say(line)
            yield seen


def problems(seen: Seen) -> list[str]:
    """A line for each kind of answer that was not whole."""
    kinds = {(a.outcome, a.detail[:40]): a for a in seen.answers if a.outcome is not Outcome.WHOLE}
    return [f"  {a.sent - seen.at:+.1f} s {a.model} {a.outcome.value}: {a.detail[:300]}" for a in kinds.values()]


def row_of(seen: Seen) -> Row:
    found = faults_load.counts(seen.answers)
    recovered = faults_load.recovered_s(seen.answers, seen.fault.hit, seen.at)
    return (
        seen.fault.what,
        seen.where,
        str(len(seen.answers)),
        *(str(found[o]) for o in (Outcome.UNBEGUN, Outcome.EVENT, Outcome.BROKEN, Outcome.SILENT)),
        "never" if recovered is None else f"{recovered:.1f}",
        f"{faults_load.troubled_s(seen.answers, seen.at):.1f}",
    )


HEAD = (
    "what",
    "behind",
    "requests",
    "failed before their first byte",
    "streams ended with an error event",
    "connections lost in an answer",
    "streams cut silently",
    "first whole answer after, s",
    "last failed request sent after, s",
)


def markdown(seen: Sequence[Seen]) -> str:
    return "\n\n".join([f"{machine('ray', 'mlx-lm')}.", table(HEAD, map(row_of, seen))]) + "\n"


def measured(options: argparse.Namespace, folder: Path) -> Result:
    if options.swaps:
        swaps = faults_swaps.run(options.swaps, folder)
        text = f"{machine('ray')}.\n\n{table(faults_swaps.HEAD, [faults_swaps.row_of(swaps)])}\n"
        return Result(text, swaps.problems())
    seen: list[Seen] = []
    for group in GROUPS:
        if chosen := [name for name in group.faults if name in (options.only or NAMES)]:
            seen += run(group, chosen, folder, options.quick)
    return Result(markdown(seen), [])


def main(arguments: list[str]) -> int:
    parser = command.parser("faults", __doc__)
    parser.add_argument("--only", nargs="+", choices=NAMES, metavar="NAME", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--swaps", type=int, metavar="N", help="instead of faults: so many swaps under load")
    return command.run(parser, arguments, measured)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
