"""What many configured models cost: echo models on one Serve, few of them up; and the policy's call with many more.

Usage: python -m benchmarks.scale [--quick] [--models N] [--policy] [--out FILE]
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import httpx
import psutil

from benchmarks import command, scale_policy
from benchmarks.command import Result, say
from benchmarks.load import PATH, request_body
from benchmarks.roles import role_of
from benchmarks.scale_policy import Ticks
from benchmarks.servers import AS_SERVED, Child, ours, serve_run
from benchmarks.tables import machine, table, target, targets
from deployments.processes import is_alive
from ingress.leases import REST_S

NAME = "scale"
COUNTS, QUICK_COUNTS = (10, 50, 200), (10, 50)
POLICY_COUNTS = (10, 50, 200, 1000, 5000)
SETTLE_S = 10.0
IDLE_S = 20.0
ASKED = 10
PAUSE_S = 0.15  # so that each request reads the states anew
REQUESTS = 20
ROLES = ("controller", "ingress", "keeper", "proxy", "gcs")
LISTS = ("/v1/models", "/api/models")

MOST_DEPLOY_S = 60.0
MOST_CORES = 0.2


@dataclass(frozen=True)
class Seen:
    """Of one number of models. answers_s: from `serve run` until the server answers, with all models in its list.
    loads_s: the time of the first request, and of one for the last model after it. cores, asked_cores: of each role
    while nothing is asked, before and after ASKED models were asked once; resting_cores: when they have rested. mb: of
    each role, at the end. lists_ms: of each list, the median."""

    models: int
    answers_s: float
    loads_s: tuple[float, float]
    cores: dict[str, float]
    asked_cores: dict[str, float]
    resting_cores: dict[str, float]
    mb: dict[str, float]
    lists_ms: dict[str, float]


def measure(folder: Path, count: int) -> Seen:
    names = [f"model-{i:04d}" for i in range(count)]
    models = [{"name": name, "engine": "echo"} for name in names]
    application = ours(NAME, "/", models, most_up=3, data_dir=str(folder / "data"))
    run = f"{NAME}-{count}"
    began = time.monotonic()
    with serve_run(folder, run, [application], AS_SERVED, models=()) as (child, url):
        child.wait_for(lambda: listed(url) == count, f"{url} does not list {count} models")
        answers_s = time.monotonic() - began
        time.sleep(SETTLE_S)
        cores = idle_cores(child)
        loads = loaded(url, names[0]), loaded(url, names[-1])
        for name in names[1 : ASKED - 1]:
            loaded(url, name)
        asked_cores = idle_cores(child)
        lists = {path: asked(url + path) for path in LISTS}
        say(f"{REST_S:g} s of rest")
        time.sleep(REST_S)
        return Seen(count, answers_s, loads, cores, asked_cores, idle_cores(child), megabytes(child), lists)


def listed(url: str) -> int:
    try:
        answer = httpx.get(f"{url}/v1/models", timeout=10)
        return len(answer.json()["data"]) if answer.status_code == 200 else 0
    except httpx.HTTPError:
        return 0


def loaded(url: str, model: str) -> float:
    began = time.monotonic()
    httpx.post(url + PATH, json=request_body(model, 1, stream=False), timeout=120).raise_for_status()
    return time.monotonic() - began


def asked(url: str) -> float:
    """Milliseconds of an answer, the median."""
    took = []
    with httpx.Client(timeout=30) as client:
        client.get(url).raise_for_status()
        for _ in range(REQUESTS):
            time.sleep(PAUSE_S)
            began = time.monotonic()
            client.get(url).raise_for_status()
            took.append((time.monotonic() - began) * 1000)
    return median(took)


def idle_cores(child: Child) -> dict[str, float]:
    """Of each role, the share of a core, over IDLE_S."""
    before, began = cpu_s(child), time.monotonic()
    time.sleep(IDLE_S)
    after, took = cpu_s(child), time.monotonic() - began
    return {role: (after.get(role, 0) - before.get(role, 0)) / took for role in ROLES}


def cpu_s(child: Child) -> dict[str, float]:
    found: defaultdict[str, float] = defaultdict(float)
    for process, role in roles(child):
        times = process.cpu_times()
        found[role] += times.user + times.system
    return found


def megabytes(child: Child) -> dict[str, float]:
    """What is shared with no other process."""
    found: defaultdict[str, float] = defaultdict(float)
    for process, role in roles(child):
        found[role] += process.memory_full_info().uss / 2**20
    return found


def roles(child: Child) -> list[tuple[psutil.Process, str]]:
    """The processes that stay."""
    named = [(process, role_of(" ".join(process.cmdline()), NAME)) for process in child.family() if is_alive(process)]
    return [(process, role) for process, role in named if role in ROLES]


def markdown(seen: Sequence[Seen], ticks: Sequence[Ticks]) -> str:
    parts = [f"{machine('ray')}."]
    if seen:
        head = ("models", "answers s", "load s", "next load s", *(f"{path} ms" for path in LISTS))
        rows = [
            (
                f"{one.models:,}",
                *(f"{s:.1f}" for s in (one.answers_s, *one.loads_s)),
                *(f"{one.lists_ms[path]:.0f}" for path in LISTS),
            )
            for one in seen
        ]
        parts.append(table(head, rows))
        head = ("models", "while nothing is asked", *(f"{role} cores" for role in ROLES))
        rows = [
            (f"{one.models:,}", when, *(f"{cores[role]:.3f}" for role in ROLES))
            for one in seen
            for when, cores in (
                ("at first", one.cores),
                (f"{ASKED} models were asked", one.asked_cores),
                (f"{REST_S:g} s later", one.resting_cores),
            )
        ]
        parts.append(table(head, rows))
        head = ("models", *(f"{role} MB" for role in ROLES))
        parts.append(table(head, [(f"{one.models:,}", *(f"{one.mb[role]:.0f}" for role in ROLES)) for one in seen]))
    head = ("models", "policy's call, idle ms", "p99", f"{scale_policy.UP} up ms", "p99", "table KB")
    parts.append(
        table(
            head,
            [
                (f"{t.models:,}", *(f"{ms:.2f}" for ms in (*t.idle, *t.busy)), f"{t.table_bytes / 1000:.1f}")
                for t in ticks
            ],
        )
    )
    if seen:
        last = seen[-1]
        parts.append(
            targets(
                [
                    target(f"{last.models} models: deployed, s", last.answers_s, MOST_DEPLOY_S, most=True),
                    target(f"{last.models} models: controller, cores", last.cores["controller"], MOST_CORES, most=True),
                ]
            )
        )
    return "\n\n".join(parts) + "\n"


def measured(options: argparse.Namespace, folder: Path) -> Result:
    counts = [options.models] if options.models else QUICK_COUNTS if options.quick else COUNTS
    seen = []
    for count in () if options.policy else counts:
        say(f"{count} models")
        seen.append(measure(folder, count))
    return Result(markdown(seen, list(scale_policy.all_ticks(POLICY_COUNTS, quick=options.quick))), [])


def main(arguments: list[str]) -> int:
    parser = command.parser(NAME, __doc__)
    parser.add_argument("--models", type=int, help=f"only so many; default {', '.join(map(str, COUNTS))}")
    parser.add_argument("--policy", action="store_true", help="only the policy's call, without Serve")
    return command.run(parser, arguments, measured)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
