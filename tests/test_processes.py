from __future__ import annotations

import subprocess
import sys

import psutil

from deployments.processes import outlived


def test_processes_that_do_not_end_are_told() -> None:
    code = [sys.executable, "-c", "input()"]
    ends, stays = (subprocess.Popen(code, stdin=subprocess.PIPE) for _ in range(2))
    both = [psutil.Process(child.pid) for child in (ends, stays)]
    try:
        ends.communicate(b"\n")
        assert outlived(both, 0.1) == both[1:]
    finally:
        stays.kill()
        stays.communicate()
    assert outlived(both, 10) == []
