"""What the processes of one Serve take, by what they are."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

import psutil

REPLICA = "ray::ServeReplica"
TITLES = (
    ("ray::ServeController", "controller"),
    ("ray::ProxyActor", "proxy"),
    ("ray::DashboardAgent", "dashboard's agent"),
    ("ray::RuntimeEnvAgent", "runtime_env agent"),
    ("ray::IDLE", "ready processes"),
    ("ray::", "other actors"),
)
"""How the title of a process of Ray's begins, and what it is: the first that fits."""
PROGRAMS = (
    ("/raylet ", "raylet"),
    ("/gcs_server ", "gcs"),
    ("ray-dashboard", "dashboard"),
    ("ray.dashboard", "dashboard"),
    ("dashboard/dashboard.py", "dashboard"),
    ("log_monitor.py", "log monitor"),
    ("autoscaler", "autoscaler's monitor"),
)
"""Part of a command line, and what it is."""

REPLICAS = "replicas"
ONE_BY_ONE = ("ingress",)
COMING_AND_GOING = (REPLICAS, "ready processes", "other actors", "others")
"""Of these there is no telling one process from the next: their median counts."""


@dataclass(frozen=True)
class Sample:
    """at: seconds of time.monotonic. mb: what is shared with nobody, MB of 2**20 bytes, by role."""

    at: float
    mb: dict[str, float]


class Sampler:
    """of: the application whose ingress and keeper are told."""

    def __init__(self, of: str) -> None:
        self._of = of
        self._cpu_s: dict[tuple[int, float], float] = {}

    @property
    def cpu_s(self) -> float:
        """CPU time of all processes so far, as the last samples saw it."""
        return sum(self._cpu_s.values())

    def sample(self, family: Sequence[psutil.Process]) -> Sample:
        sizes: defaultdict[str, list[float]] = defaultdict(list)
        for process in sorted(family, key=lambda one: one.pid):
            try:
                role = role_of(" ".join(process.cmdline()), self._of)
                sizes[role].append(process.memory_full_info().uss / 2**20)
                times = process.cpu_times()
            except psutil.Error:
                continue  # it has ended
            self._cpu_s[process.pid, process.create_time()] = times.user + times.system
        return Sample(time.monotonic(), dict(_by_role(sizes)))


def role_of(line: str, application: str) -> str:
    """line: a process's title or command line."""
    mine = f"{REPLICA}:{application}:"
    for deployment in ("Ingress", "Keeper"):
        if line.startswith(mine + deployment):
            return deployment.lower()
    if line.startswith(REPLICA):
        return REPLICAS
    return next((role for part, role in PROGRAMS if part in line), None) or next(
        (role for begin, role in TITLES if line.startswith(begin)), "others"
    )


def _by_role(sizes: dict[str, list[float]]) -> Iterable[tuple[str, float]]:
    for role, found in sizes.items():
        if role in COMING_AND_GOING:
            yield role, median(found)
        elif role in ONE_BY_ONE:
            yield from ((f"{role} {number}", mb) for number, mb in enumerate(found, 1))
        else:
            yield role, sum(found)
