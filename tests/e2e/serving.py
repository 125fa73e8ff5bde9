"""Runs real Ray Serve for the tests, as a user would, and ends all of it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil
import yaml

from deployments import warm
from deployments.environment import SERVING
from deployments.processes import outlived

T = TypeVar("T")
BUSY_S = 60.0
ROOT = Path(__file__).resolve().parents[2]
_DASHBOARD = re.compile(r"dashboard at \S*?([\d.]+:\d+)")
CACHE = Path(os.environ.get("LLM_MANAGER_CACHE", "~/.cache/llm-manager")).expanduser()


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def wait_for(what: str, look: Callable[[], T], deadline_s: float) -> T:
    """What `look` returns once it is true. Fails after `deadline_s`, and not before a busy machine has had its time."""
    deadline_s = max(deadline_s, BUSY_S)
    end = time.monotonic() + deadline_s
    while not (seen := look()):
        assert time.monotonic() < end, f"not within {deadline_s:g} s: {what}"
        time.sleep(0.05)
    return seen


def application(
    name: str,
    prefix: str,
    models: list[dict[str, Any]],
    *,
    cap: int,
    turn_s: float = 30,
    memory_limit: float = 0.9,
    policy: str | None = None,
    **args: Any,
) -> dict[str, Any]:
    return {
        "name": name,
        "route_prefix": prefix,
        "import_path": "ingress.app:build",
        "logging_config": {"enable_access_log": False},
        "autoscaling_policy": {
            "policy_function": policy or "deployments.residency:ResidencyPolicy",
            "policy_kwargs": {
                "max_concurrent_models": cap,
                "max_swap_wait_s": turn_s,
                "memory_limit": memory_limit,
            },
        },
        "args": {"cache_dir": str(CACHE), "models": models, **args},
    }


class Serving:
    """`serve run` on a configuration, in a Ray of its own."""

    def __init__(
        self,
        folder: Path,
        applications: list[dict[str, Any]],
        env: dict[str, str] | None = None,
        host: str = "127.0.0.1",
        at_first: int | None = None,
        proxies: str = "EveryNode",
    ) -> None:
        """at_first: how many of the applications are there from the start; default all. proxies: Serve's
        proxy_location."""
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        for one in applications:
            one["args"].setdefault("data_dir", str(folder / "data"))
        self._host = host
        self._proxies = proxies
        self._applications = applications
        self._deployed = {one["name"] for one in applications[:at_first]}
        self.log = folder / "serve.log"
        self.config = folder / "serve_config.yaml"
        self._write()
        as_served = {**SERVING, **(env or {})}  # as `make serve` has it
        self._env = {**os.environ, "RAY_ADDRESS": "local", "PYTHONPATH": str(ROOT), **as_served}
        self._family: list[psutil.Process] = []

    def start(self, command: tuple[str | Path, ...] | None = None) -> None:
        """`command`: what runs the configuration; its path is appended. Default `serve run`."""
        serve = Path(sys.executable).with_name("serve")
        with self.log.open("wb") as log:
            self._child = subprocess.Popen(
                [*(command or (serve, "run")), self.config],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._env,
                cwd=self.config.parent,
                start_new_session=True,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL) and None,
            )

    def deploy(self, names: Iterable[str]) -> None:
        """Lets these applications run beside the first one, and no others, by `serve deploy`: each costs the machine
        something as long as it is there."""
        wanted = {self._applications[0]["name"], *names}
        gone, self._deployed = self._deployed - wanted, wanted
        self._serve_deploy()
        for name in gone:
            wait_for(f"{name} has gone", lambda n=name: not self.named(f"ray::ServeReplica:{n}:"), 60)  # type: ignore[misc]
        self.wait_ready()
        wait_for("all ingress replicas and keepers", self._is_whole, 120)

    def change(self, name: str, models: list[dict[str, Any]]) -> None:
        """Gives an application these models, by `serve deploy`, and waits for nothing."""
        for one in self._applications:
            if one["name"] == name:
                one["args"]["models"] = models
        self._serve_deploy()

    def _serve_deploy(self) -> None:
        self._write()
        serve = Path(sys.executable).with_name("serve")
        env = {**self._env, "RAY_AUTH_MODE": "token"}
        command: list[str | Path] = [serve, "deploy", "--address", self._dashboard, self.config]
        subprocess.run(command, env=env, check=True, capture_output=True, timeout=120)

    @property
    def _dashboard(self) -> str:
        (address,) = wait_for("the dashboard's address", lambda: _DASHBOARD.findall(self.log.read_text()), 30)
        return f"http://{address}"

    def _is_whole(self) -> bool:
        """Whether Serve says so of the ingress and the keeper: one ingress replica is enough to answer, before there is
        a keeper."""
        token = Path("~/.ray/auth_token").expanduser().read_text().strip()
        headers = {"Authorization": f"Bearer {token}"}
        answer = httpx.get(f"{self._dashboard}/api/serve/applications/", headers=headers, timeout=30)
        assert answer.status_code == 200, answer.text
        seen = {name: one["deployments"] for name, one in answer.json()["applications"].items()}
        return all(
            seen.get(application, {}).get(deployment, {}).get("status") == "HEALTHY"
            for application in self._deployed
            for deployment in ("Ingress", "Keeper")
        )

    def serve_logs(self) -> Path:
        """Where its Ray keeps the logs of Serve."""
        (session,) = Path(tempfile.gettempdir(), "ray").glob(f"session_*_{self._child.pid}")
        return session / "logs" / "serve"

    def wait_ready(self, deadline_s: float = 120) -> None:
        for one in self._applications:
            if one["name"] in self._deployed:
                prefix = str(one["route_prefix"])
                wait_for(f"{prefix}/health", lambda p=prefix: self._answers(p), deadline_s)  # type: ignore[misc]

    def _write(self) -> None:
        http = {"host": self._host, "port": self.port}
        applications = [one for one in self._applications if one["name"] in self._deployed]
        said = {"proxy_location": self._proxies, "http_options": http, "applications": applications}
        self.config.write_text(yaml.safe_dump(said))

    def _answers(self, prefix: str) -> bool:
        assert self._child.poll() is None, self.log.read_text()[-4000:]
        try:
            return httpx.get(f"{self.url}{prefix.rstrip('/')}/health", timeout=5).status_code == 200
        except httpx.HTTPError:
            return False

    def statuses(self, prefix: str = "") -> dict[str, str]:
        cards = httpx.get(f"{self.url}{prefix}/v1/models", timeout=30).json()["data"]
        return {card["id"]: card["status"] for card in cards}

    def replicas(self, application: str, deployment: str) -> list[psutil.Process]:
        return self.named(f"ray::ServeReplica:{application}:{deployment}")

    def named(self, title: str) -> list[psutil.Process]:
        """Ray's processes whose titles begin so."""
        return [p for p in psutil.Process(self._child.pid).children(recursive=True) if _title(p).startswith(title)]

    def models_with_processes(self, application: str) -> set[str]:
        found = (
            re.match(rf"ray::ServeReplica:{application}:([\w-]+)", _title(p)) for p in self.named("ray::ServeReplica")
        )
        return {match[1] for match in found if match} - {"Ingress", "Keeper"}

    def idle_warm_processes(self, engine: str) -> list[psutil.Process]:
        """Processes that Ray keeps, with the engine imported: those that are done with it."""
        hook = warm.environment(engine)[warm.HOOK]
        found = [p for p in self.named("ray::IDLE") if _environment(p).get(warm.HOOK) == hook]
        return [process for process in found if _rests(process)]

    @contextlib.contextmanager
    def joined(self, resources: dict[str, float]) -> Iterator[psutil.Process]:
        """Another node of the cluster, with these of Ray's resources, as `ray start` brings it."""
        (raylet,) = [p for p in psutil.Process(self._child.pid).children(recursive=True) if p.name() == "raylet"]
        gcs = next(a.removeprefix("--gcs-address=") for a in raylet.cmdline() if a.startswith("--gcs-address="))
        ray = Path(sys.executable).with_name("ray")
        command: list[str | Path] = [
            ray,
            "start",
            f"--address={gcs}",
            f"--resources={json.dumps(resources)}",
            "--num-cpus=1",
            "--block",
        ]
        env = {**self._env, "RAY_AUTH_MODE": "token"}
        del env["RAY_ADDRESS"]
        # `ray start` notes the cluster there for whoever starts Ray next on this machine; a killed one leaves the note.
        noted = Path(tempfile.gettempdir(), "ray", "ray_current_cluster")
        before = noted.read_bytes() if noted.exists() else None
        with self.log.with_name("node.log").open("wb") as log:
            child = subprocess.Popen(command, env=env, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        node = psutil.Process(child.pid)
        try:
            yield node
        finally:
            family = [*node.children(recursive=True), node] if child.poll() is None else []
            for process in family:
                with contextlib.suppress(psutil.Error):
                    process.kill()
            child.wait(10)
            outlived(family, 10)
            noted.unlink(missing_ok=True)
            if before is not None:
                noted.write_bytes(before)
        # Until then it would still be given replicas to start.
        wait_for("Ray has seen the node go", self._is_alone, 60)

    def _is_alone(self) -> bool:
        nodes = httpx.get(f"{self.url}/api/devices/info", timeout=30).json()["nodes"]
        online = [node for node in nodes if node["online"]]
        return len(online) == 1 and all("is dead" in node["error"] for node in nodes if node not in online)

    def memory_mb(self) -> float:
        """Of all processes of the server, what they share with nobody."""
        family = psutil.Process(self._child.pid).children(recursive=True)
        return sum(_unshared(process) for process in family) / 2**20

    def interrupt(self) -> None:
        self._family = psutil.Process(self._child.pid).children(recursive=True)
        self._child.send_signal(signal.SIGINT)

    def wait_ended(self, deadline_s: float) -> int:
        return self._child.wait(deadline_s)

    def left_behind(self, deadline_s: float = 10) -> list[str]:
        """Command lines of processes that are still there."""
        alive = outlived(self._family, deadline_s)
        return [_title(process) for process in alive]

    def stop(self) -> None:
        """Ends everything, whatever state it is in."""
        if self._child.poll() is None:
            self.interrupt()
            try:
                self.wait_ended(60)
            except subprocess.TimeoutExpired:
                self._child.kill()
                self._child.wait()
        alive = outlived(self._family, 5)
        for process in alive:
            process.kill()


def _environment(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ()
    except psutil.Error:
        return {}


def _rests(process: psutil.Process) -> bool:
    try:
        return process.cpu_percent(0.5) < 5
    except psutil.Error:
        return False


def _unshared(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().uss)
    except psutil.Error:
        return 0


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
