"""Memory of this machine and of a process, in MB (2**20 bytes)."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

MB = 2**20
_CGROUP = Path("/sys/fs/cgroup")
_FAMILY_S = 5.0


@dataclass(frozen=True)
class Memory:
    total_mb: float
    free_mb: float


def machine(cgroup: Path = _CGROUP) -> Memory:
    """What this machine has, or the container if that may use less (cgroup v2; its file cache counts as free)."""
    seen = psutil.virtual_memory()
    whole = Memory(seen.total / MB, seen.available / MB)
    try:
        limit = int((cgroup / "memory.max").read_text()) / MB
        used = int((cgroup / "memory.current").read_text()) / MB
        stat = dict(line.split() for line in (cgroup / "memory.stat").read_text().splitlines())
        cached = int(stat.get("inactive_file", 0)) / MB
    except (OSError, ValueError):  # no cgroup, or "max": no limit
        return whole
    if limit >= whole.total_mb:
        return whole
    return Memory(limit, min(whole.free_mb, max(0.0, limit - used + cached)))


def share(setting: float, total_mb: float) -> float:
    """MB of a setting that is a fraction of the machine's memory up to 1, and MB above."""
    return setting * total_mb if setting <= 1 else setting


class Meter:
    """Memory of this process, its children and its device. Looking for children is dear and done rarely."""

    def __init__(self, device_mb: Callable[[], float]) -> None:
        self._device_mb = device_mb
        self._process = psutil.Process()
        self._children: list[psutil.Process] = []
        self._looked_at = float("-inf")
        self.peak_mb = 0.0

    def read(self) -> float:
        if time.monotonic() - self._looked_at > _FAMILY_S:
            self._children = self._process.children(recursive=True)
            self._looked_at = time.monotonic()
        resident = self._process.memory_info().rss + sum(_resident(child) for child in self._children)
        now_mb = resident / MB + self._device_mb()
        self.peak_mb = max(self.peak_mb, now_mb)
        return now_mb


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:  # it has ended
        return 0
