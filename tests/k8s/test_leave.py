"""How a worker's pod ends, with programs that stand for Ray's."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import warnings
from pathlib import Path

import pytest

from tests.k8s.objects import K8S

SCRIPT = K8S / "leave.sh"
NODE = "0123456789abcdef"


class Pod:
    """Its programs write down what they are asked for. looks: how often one of Serve's processes is still seen."""

    def __init__(self, folder: Path, *, looks: int, accepted: bool = True, raylet: str = "--node_id") -> None:
        self._folder = folder
        self._written = folder / "asked"
        self._program("ray", f'[ "$1" = stop ] || exit {int(not accepted)}')
        self._program(
            "pgrep",
            f"""if [ "$1" = -af ]; then echo "7 /ray/core/raylet {raylet}={NODE} --x=1"; exit 0; fi
            [ "$(grep -c 'pgrep -f' {shlex.quote(str(self._written))})" -le {looks} ]""",
        )
        self._program("sleep", "")

    def leave(self, seconds: int) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "PATH": f"{self._folder}:{os.environ['PATH']}", "RAY_ADDRESS": "head:6379"}
        return subprocess.run([SCRIPT, str(seconds)], env=env, capture_output=True, text=True, timeout=60)

    @property
    def asked(self) -> list[str]:
        return self._written.read_text().splitlines()

    def _program(self, name: str, body: str) -> None:
        path = self._folder / name
        path.write_text(f'#!/bin/sh\necho {name} "$@" >> {shlex.quote(str(self._written))}\n{body}\n')
        path.chmod(0o755)


@pytest.mark.parametrize("raylet", ["--node_id", "--node-id"])
def test_head_is_told_which_node_goes_and_when(tmp_path: Path, raylet: str) -> None:
    pod = Pod(tmp_path, looks=0, raylet=raylet)
    assert pod.leave(670).returncode == 0
    (drain,) = [line for line in pod.asked if line.startswith("ray drain-node")]
    assert f"--address head:6379 --node-id {NODE} " in drain
    assert drain.endswith("--deadline-remaining-seconds 670")


def test_ray_is_stopped_when_nothing_of_serve_is_left(tmp_path: Path) -> None:
    pod = Pod(tmp_path, looks=3)
    pod.leave(670)
    assert len([line for line in pod.asked if line.startswith("pgrep -f")]) == 4
    assert len([line for line in pod.asked if line == "sleep 1"]) == 3
    assert pod.asked[-1] == "ray stop"


def test_ray_is_stopped_when_the_time_is_over(tmp_path: Path) -> None:
    pod = Pod(tmp_path, looks=10**9)
    pod.leave(1)
    assert pod.asked[-1] == "ray stop"


def test_answers_are_finished_also_when_the_head_is_away(tmp_path: Path) -> None:
    pod = Pod(tmp_path, looks=2, accepted=False)
    assert "was not told" in pod.leave(670).stderr
    assert [line for line in pod.asked if line == "sleep 1"] == ["sleep 1"] * 2
    assert pod.asked[-1] == "ray stop"


def test_ray_knows_what_it_is_asked_for() -> None:
    from ray.scripts.scripts import cli

    (asked,) = re.findall(r"ray drain-node (.+?) \|\|", SCRIPT.read_text().replace("\\\n", " "), re.DOTALL)
    known = {option: param for param in cli.commands["drain-node"].params for option in param.opts}
    assert [option for option in re.findall(r"--[a-z-]+", asked) if option not in known] == []
    (reason,) = re.findall(r"DRAIN_NODE_\w+", asked)
    assert reason in known["--reason"].type.choices


def test_script_asks_for_what_serve_calls_its_processes() -> None:
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # from within Ray's own modules
        from ray.serve._private.common import DeploymentID
        from ray.serve._private.haproxy import HAProxyManager
        from ray.serve._private.proxy import ProxyActor

    (pattern,) = re.findall(r"^serves='(.+)'$", SCRIPT.read_text(), re.MULTILINE)
    actors = [kind.__ray_metadata__.class_name for kind in (HAProxyManager, ProxyActor)]
    replica = DeploymentID(name="Ingress", app_name="llm-manager").to_replica_actor_class_name()
    assert [name for name in (*actors, replica) if not re.match(pattern, f"ray::{name}")] == []
    assert re.match(pattern, "ray::ServeController") is None
