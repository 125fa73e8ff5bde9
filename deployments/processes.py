"""Whether processes have ended."""

from __future__ import annotations

import time
from collections.abc import Iterable

import psutil

_LOOK_S = 0.05


def outlived(processes: Iterable[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Waits until all have ended: those that have not after so many seconds. (`psutil.wait_procs` raised
    FileNotFoundError on Linux 6.18, of a process that was just going.)"""
    deadline = time.monotonic() + seconds
    left = list(processes)
    while (left := [process for process in left if is_alive(process)]) and time.monotonic() < deadline:
        time.sleep(_LOOK_S)
    return left


def is_alive(process: psutil.Process) -> bool:
    """One that has ended is a zombie until its parent looks; an orphan, until the machine's first process does."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
