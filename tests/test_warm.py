from __future__ import annotations

import os
import subprocess
import sys
import threading
from dataclasses import dataclass
from typing import Any, get_args

import pytest

from deployments import warm
from deployments.config import EngineName


@pytest.mark.parametrize("engine", get_args(EngineName))
def test_environment_of_each_engine_names_a_function_that_is_there(engine: str) -> None:
    (hook,) = warm.environment(engine).values()
    module, _, function = hook.rpartition(".")
    assert module == warm.__name__
    assert callable(getattr(warm, function))


def test_variable_is_rays_own() -> None:
    from ray._private import ray_constants

    assert warm.HOOK == ray_constants.WORKER_PROCESS_SETUP_HOOK_ENV_VAR


def test_import_that_fails_is_only_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray would end the process, and every other one that it starts for the replica."""
    monkeypatch.setattr(warm, "_COMMON", ("no.such.module", "json:no_such_name", "wave"))
    monkeypatch.setattr(warm, "_ENGINES", {"echo": ("colorsys",)})
    sys.modules.pop("wave", None)
    warm.import_echo()
    assert "wave" in sys.modules


def test_replica_without_the_hook_makes_nothing_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(warm.HOOK, raising=False)
    before = threading.active_count()
    warm.refill(lambda: 0, 0.0)
    assert threading.active_count() == before


IDLE = ["bash", "-c", "exec -a ray::IDLE sleep 60"]
REPLICA = """
import psutil, subprocess, sys
from deployments import warm
own, other_nodes = sys.argv[1], subprocess.Popen(sys.argv[2:])
for pid in (int(own), other_nodes.pid):
    while psutil.Process(pid).cmdline() != ["ray::IDLE", "60"]:
        pass
print([process.pid for process in warm._idle()])
other_nodes.kill()
"""


def test_idle_processes_of_other_nodes_of_this_machine_are_not_counted() -> None:
    """A node's processes are its raylet's children, as here they are this one's."""
    environment = {**os.environ, **warm.environment("echo")}
    with subprocess.Popen(IDLE, env=environment) as idle:
        try:
            replica = [sys.executable, "-c", REPLICA, str(idle.pid), *IDLE]
            told = subprocess.run(replica, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        finally:
            idle.kill()
    assert told.stdout.split() == [f"[{idle.pid}]"]


@dataclass
class Process:
    created_at: float

    def create_time(self) -> float:
        return self.created_at


@pytest.mark.parametrize(
    ("created_at", "useless"),
    [
        pytest.param(995, [100], id="a new process was made though one was there"),
        pytest.param(900, [], id="it was ready itself"),
        pytest.param(112, [], id="the other one may not have been ready yet"),
    ],
)
def test_idle_process_that_ray_did_not_take_is_of_no_use(created_at: float, useless: list[float]) -> None:
    idle: list[Any] = [Process(100), Process(999)]
    began_at = 1000 if created_at > 500 else 113
    assert [process.create_time() for process in warm._useless(created_at, began_at, idle)] == useless


@pytest.mark.parametrize(
    ("cpus", "soft_limit", "kept"), [(4.0, None, True), (2.0, None, False), (2.0, "64", True), (0.0, None, False)]
)
def test_ray_keeps_an_idle_process_where_cpus_are_free_or_it_is_told_to(
    monkeypatch: pytest.MonkeyPatch, cpus: float, soft_limit: str | None, kept: bool
) -> None:
    monkeypatch.delenv(warm.SOFT_LIMIT, raising=False)
    if soft_limit:
        monkeypatch.setenv(warm.SOFT_LIMIT, soft_limit)
    nodes = [{"NodeID": "here", "Resources": {"CPU": cpus}}, {"NodeID": "there", "Resources": {"CPU": 64.0}}]
    assert warm._keeps_idle_processes("here", nodes) is kept
