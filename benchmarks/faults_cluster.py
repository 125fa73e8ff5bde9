"""More than one node on this machine: another one that joins `serve run`, and a cluster whose head comes back."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import yaml

from benchmarks.load import HOST
from benchmarks.servers import AS_SERVED, HAPROXY, Child, Urls, free_port
from deployments.processes import outlived

RAY, SERVE = (str(Path(sys.executable).with_name(name)) for name in ("ray", "serve"))
DEPLOY_S = 120.0
WORKER_CPUS = 8
PATIENCE_S = 600  # of a node whose head is away, as KubeRay has it


def kill(processes: list[psutil.Process]) -> None:
    """All at once."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    outlived(processes, 10)


@contextmanager
def joined(child: Child, folder: Path, resource: str) -> Iterator[Child]:
    """A node with that resource, in the cluster that `serve run` has started."""
    (raylet,) = [process for process in child.family() if process.name() == "raylet"]
    gcs = next(a.removeprefix("--gcs-address=") for a in raylet.cmdline() if a.startswith("--gcs-address="))
    command = [RAY, "start", f"--address={gcs}", f"--resources={json.dumps({resource: 1})}", "--num-cpus=1", "--block"]
    with _noted():
        node = Child(folder / "node.log", command, {**AS_SERVED, HAPROXY: "0", "RAY_AUTH_MODE": "token"})
        try:
            yield node
        finally:
            kill(node.family())
            node.stop()


@dataclass
class Cluster:
    """A head without CPUs, and a node for the models and the ingress. What the head knows lies in Redis."""

    folder: Path
    env: Mapping[str, str]
    port: int = field(default_factory=free_port)
    dashboard: int = field(default_factory=free_port)

    def start_head(self) -> None:
        options = [f"--port={self.port}", f"--dashboard-port={self.dashboard}", "--num-cpus=0"]
        files = self.folder / "r"
        # A pod's own would be gone with it: Ray takes the other node's processes for those of a head that still runs.
        (files / "ray_current_cluster").unlink(missing_ok=True)
        self.head = self._node("head", ["--head", *options, f"--temp-dir={files}"])

    def start_node(self) -> None:
        self.node = self._node("node", [f"--address={HOST}:{self.port}", f"--num-cpus={WORKER_CPUS}"])

    def deploy(self, application: Mapping[str, Any], http: int) -> None:
        config = self.folder / "cluster.yaml"
        options = {"host": HOST, "port": http}
        config.write_text(
            yaml.safe_dump({"proxy_location": "EveryNode", "http_options": options, "applications": [application]})
        )
        command = [SERVE, "deploy", "--address", f"http://{HOST}:{self.dashboard}", str(config)]
        subprocess.run(command, env=dict(self.env), check=True, capture_output=True, timeout=DEPLOY_S)

    def family(self) -> list[psutil.Process]:
        return [*self.head.family(), *self.node.family()]

    def wait_ready(self, urls: Urls) -> None:
        self.node.wait_ready(urls)

    def stop(self) -> None:
        for child in (self.node, self.head):
            kill(child.family())
            child.stop()

    def _node(self, name: str, options: list[str]) -> Child:
        command = [RAY, "start", *options, f"--node-ip-address={HOST}", "--block"]
        return Child(self.folder / f"{name}.log", command, self.env)


@contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """Raises: FileNotFoundError, without redis-server."""
    with ExitStack() as stack:
        stack.enter_context(_noted())
        redis = free_port()
        options = ["--port", str(redis), "--bind", HOST, "--save", "", "--appendonly", "no"]
        stack.callback(Child(folder / "redis.log", [_redis(), *options]).stop)
        # Ray's sockets lie there, and the path of a socket is short.
        short = stack.enter_context(tempfile.TemporaryDirectory(prefix="f", dir="/tmp", ignore_cleanup_errors=True))
        env = {
            **AS_SERVED,
            HAPROXY: "0",
            "RAY_AUTH_MODE": "disabled",
            "RAY_REDIS_ADDRESS": f"{HOST}:{redis}",
            "RAY_gcs_rpc_server_reconnect_timeout_s": str(PATIENCE_S),
        }
        made = Cluster(Path(short), env)
        made.start_head()
        stack.callback(lambda: made.head.stop())
        made.head.wait_for(lambda: _has(made.head, "raylet"), "the head does not come up")
        made.start_node()
        stack.callback(made.stop)
        made.node.wait_for(lambda: _has(made.node, "raylet"), "the node does not come up")
        yield made


def _has(child: Child, name: str) -> bool:
    return any(process.name() == name for process in child.family())


def _redis() -> str:
    found = shutil.which("redis-server")
    if found is None:
        raise FileNotFoundError("redis-server: apt-get install redis-server")
    return found


@contextmanager
def _noted() -> Iterator[None]:
    """`ray start` notes the cluster there for whoever starts Ray next on this machine; a killed one leaves the note."""
    note = Path(tempfile.gettempdir(), "ray", "ray_current_cluster")
    before = note.read_bytes() if note.exists() else None
    try:
        yield
    finally:
        note.unlink(missing_ok=True)
        if before is not None:
            note.write_bytes(before)
