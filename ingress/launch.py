"""`serve run FILE` in the foreground, for a person: checks first, tells what happens, leaves nothing behind.

Usage: python -m ingress.launch [--host HOST] [--port PORT] [serve_config.yaml]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import psutil
import yaml

from deployments import config
from deployments import keys as clients
from deployments.config import ConfigError, Settings
from deployments.environment import SERVING
from deployments.processes import outlived
from deployments.residency import ResidencyPolicy
from ingress.local import check_exposure

IMPORT_PATH = "ingress.app:build"
POLICY = "deployments.residency:ResidencyPolicy"
MISTAKEN = (OSError, ValueError, yaml.YAMLError)
"""What is raised of a configuration that cannot be served; its text has a line for each mistake."""
STOP_S = 60.0  # behind HAProxy Serve keeps the ingress reachable for 30 s
KILL_S = 5.0
LOOK_S = 0.5
RAY_S = 2.0


def main(arguments: list[str]) -> int:
    options = _options(arguments)
    path: Path = options.config
    http = {name: value for name, value in (("host", options.host), ("port", options.port)) if value is not None}
    try:
        settings, host, port = checked(path, http)
    except MISTAKEN as error:
        for line in str(error).splitlines():
            print(f"{path}: {line}", file=sys.stderr)
        return 2
    if not is_free(host, port):
        print(
            f"Port {port} on {host} is taken: end what listens there, or set http_options.port in {path}.",
            file=sys.stderr,
        )
        return 1
    print(f"Starting Ray Serve with {len(settings.models)} model(s) from {path} …", flush=True)
    with changed(path, http) as file:
        return run(file, settings, f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}")


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m ingress.launch", description="Runs a server in the foreground.")
    parser.add_argument("config", nargs="?", type=Path, default=Path("serve_config.yaml"))
    parser.add_argument("--host", help="address to listen on, instead of http_options.host")
    parser.add_argument("--port", type=int, help="port to listen on, instead of http_options.port")
    return parser.parse_args(arguments)


class Configuration(NamedTuple):
    """host, port: where the server will listen."""

    settings: Settings
    host: str
    port: int


def checked(path: Path, http: Mapping[str, Any] | None = None) -> Configuration:
    """All that is checked before anything starts. http: comes before the file's http_options.

    Raises: MISTAKEN, with every mistake.
    """
    found = read(path)._replace(**(http or {}))
    check_exposure(found.settings, os.environ, found.host)
    return found


def read(path: Path) -> Configuration:
    """Raises: MISTAKEN, with every mistake."""
    data = yaml.safe_load(path.read_text())
    if not isinstance(data, dict):
        raise ValueError("is not a Serve configuration")
    applications = data.get("applications")
    if not isinstance(applications, list) or not all(isinstance(a, dict) for a in applications):
        raise ValueError("applications: must be a list of applications")
    ours = [a for a in applications if a.get("import_path") == IMPORT_PATH]
    if len(ours) != 1:
        raise ValueError(f"needs one application with import_path {IMPORT_PATH}, has {len(ours)}")
    http = data.get("http_options") or {}
    if not isinstance(http, dict):
        raise ValueError("http_options: must be an object")
    settings = config.with_keys(config.parse(ours[0].get("args") or {}), os.environ)
    _check_policy(ours[0].get("autoscaling_policy"))
    return Configuration(settings, http.get("host", "127.0.0.1"), int(http.get("port", 8000)))


def _check_policy(given: Any) -> None:
    """Serve's controller would find these mistakes when it is too late. Raises: ConfigError."""
    if not isinstance(given, dict) or given.get("policy_function") != POLICY:
        return
    try:
        ResidencyPolicy(**(given.get("policy_kwargs") or {}))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"autoscaling_policy.policy_kwargs: {error}") from None


@contextlib.contextmanager
def changed(path: Path, http: Mapping[str, Any]) -> Iterator[Path]:
    """A configuration with these http_options; the file itself, if they are none."""
    if not http:
        yield path
        return
    data = yaml.safe_load(path.read_text())
    data["http_options"] = {**(data.get("http_options") or {}), **http}
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, path.name)
        copy.write_text(yaml.safe_dump(data))
        yield copy


def is_free(host: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((host, port))
        except OSError:
            return False
    return True


def dead_ray(environ: Mapping[str, str]) -> str | None:
    """The address of a Ray that `serve run` would wait for, and that is not there any more: `ray start` notes its own
    for all who come after it, and nobody takes the note of one down that was killed."""
    note = Path(environ.get("RAY_TMPDIR") or tempfile.gettempdir(), "ray", "ray_current_cluster")
    if "RAY_ADDRESS" in environ or not note.exists():
        return None
    address = note.read_text().strip()
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), RAY_S):
            return None
    except (OSError, ValueError):
        return address


def run(path: Path, settings: Settings, url: str) -> int:
    """Runs Serve until it ends or a signal comes. Returns the exit status."""
    # A session of its own: Ctrl-C reaches it once, from here, and not each of Ray's processes at a time of its own.
    serve = Path(sys.executable).with_name("serve")
    env = {**SERVING, **os.environ}
    if (address := dead_ray(env)) is not None:
        print(f"The Ray at {address} is not there any more: starting one.", flush=True)
        env["RAY_ADDRESS"] = "local"
    own_key = secrets.token_urlsafe(32) if settings.keys else ""  # of this run, to see how the models are
    if own_key:
        env[clients.ENVIRONMENT] = ",".join([*filter(None, [env.get(clients.ENVIRONMENT)]), own_key])
    child = subprocess.Popen([serve, "run", path], env=env, start_new_session=True, preexec_fn=_default_sigint)
    stopping = threading.Event()

    def stop(*_: Any) -> None:
        stopping.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    watch = threading.Thread(target=_tell, args=(settings, url, own_key, stopping), daemon=True)
    watch.start()
    while child.poll() is None and not stopping.wait(LOOK_S):
        pass
    return _end(child)


def _default_sigint() -> None:
    """A process started in the background ignores SIGINT, and so would its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _end(child: subprocess.Popen[bytes]) -> int:
    """Ends `serve run` and whatever it leaves behind. 0 if it was asked to end."""
    if child.poll() is not None:
        print(f"Serve ended by itself (exit status {child.returncode}).", file=sys.stderr)
        return child.returncode or 1
    print("\nStopping: running answers are finished first. Ctrl-C again to cut them.", flush=True)
    family = psutil.Process(child.pid).children(recursive=True)
    patience = threading.Event()

    def hurry(number: int, frame: FrameType | None) -> None:
        patience.set()

    signal.signal(signal.SIGINT, hurry)
    child.send_signal(signal.SIGINT)
    deadline = time.monotonic() + STOP_S
    while child.poll() is None and time.monotonic() < deadline and not patience.wait(0.1):
        pass
    if child.poll() is None:
        child.kill()
        child.wait()
    alive = outlived(family, KILL_S)
    for process in alive:
        process.kill()
    outlived(alive, KILL_S)
    print("Stopped.", flush=True)
    return 0


def _tell(settings: Settings, url: str, key: str, stopping: threading.Event) -> None:
    """Says what the models do until those that start by themselves are up, then where the server is. key: empty if none
    is needed."""
    awaited = {model.name for model in settings.models if model.auto_start or model.min_replicas}
    told: dict[str, str] = {}
    started = time.monotonic()
    while not stopping.wait(LOOK_S):
        models = _get(f"{url}/api/models", key)
        if models is None:
            continue
        waits = False
        for model in models["models"]:
            name, status = model["name"], model["status"]
            if name not in awaited:
                continue
            if told.get(name) != status:
                told[name] = status
                print(f"[{time.monotonic() - started:5.1f} s] {name}: {status}", flush=True)
                if status == "failed":
                    print(f"Failed: {name}: {model['failure_reason']}", file=sys.stderr, flush=True)
            # One that is stopped, and decided on, had no room.
            waits = waits or not (status in ("running", "failed") or (status == "stopped" and model["reason"]))
        if not waits:
            _say_ready(settings, url)
            return


def _say_ready(settings: Settings, url: str) -> None:
    body = {
        "model": settings.models[0].name,
        "messages": [{"role": "user", "content": "What is the capital of France?"}],
        "temperature": 0,
    }
    key = "-H 'Authorization: Bearer YOUR_KEY' " if settings.keys else ""
    print(
        f"\nLLM-Manager is ready at {url}/v1.\n"
        f"In the browser: {url}/console (Ray's dashboard: http://127.0.0.1:8265). Or try:\n\n"
        f"curl {url}/v1/chat/completions {key}-H 'Content-Type: application/json' -d '{json.dumps(body)}'\n",
        flush=True,
    )


def _get(url: str, key: str) -> Any:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {key}"} if key else {})
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return json.load(answer)
    except (OSError, urllib.error.URLError, ValueError):
        return None


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    sys.exit(main(sys.argv[1:]))
