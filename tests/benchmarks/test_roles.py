from __future__ import annotations

import subprocess
import sys

import psutil
import pytest

from benchmarks.roles import Sampler, role_of


@pytest.mark.parametrize(
    ("line", "role"),
    [
        ("ray::ServeReplica:soak:Ingress", "ingress"),
        ("ray::ServeReplica:soak:Keeper.handle_request", "keeper"),
        ("ray::ServeReplica:soak:alpha", "replicas"),
        ("ray::ServeReplica:other:Ingress", "replicas"),
        ("ray::ServeController.listen_for_change", "controller"),
        ("ray::ProxyActor", "proxy"),
        ("ray::IDLE", "ready processes"),
        ("ray::JobSupervisor", "other actors"),
        ("/lib/ray/core/src/ray/raylet/raylet --raylet_socket_name=x", "raylet"),
        ("/lib/ray/core/src/ray/gcs/gcs_server --log_dir=x", "gcs"),
        ("ray-dashboard-NodeHead-0 (/bin/python -c x)", "dashboard"),
        ("/bin/python -u /lib/ray/dashboard/dashboard.py --host=127.0.0.1", "dashboard"),
        ("/bin/python -c from multiprocessing.forkserver import main; main(25, ['ray.dashboard.x'])", "dashboard"),
        ("ray::DashboardAgent", "dashboard's agent"),
        ("ray::RuntimeEnvAgent", "runtime_env agent"),
        ("/bin/bash", "others"),
    ],
)
def test_process_is_known_by_its_title(line: str, role: str) -> None:
    assert role_of(line, "soak") == role


def test_process_that_has_ended_is_left_out() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    process = psutil.Process(child.pid)
    child.wait()
    assert Sampler("soak").sample([process]).mb == {}
