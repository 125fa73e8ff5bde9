"""A cluster of several nodes on this machine: a raylet for each, with resources that are only said to be there."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
from ray.cluster_utils import Cluster

from tests.e2e.serving import free_port

_STORE_BYTES = 80 * 2**20  # the least that Ray takes is about 75 MB


class Nodes:
    """The head lends no CPU: it has the control service, Serve's controller and the keeper."""

    def __init__(self) -> None:
        self._cluster = Cluster(
            initialize_head=True,
            head_node_args={
                "num_cpus": 0,
                "object_store_memory": _STORE_BYTES,
                "gcs_server_port": free_port(),
                "dashboard_port": free_port(),
                "include_dashboard": True,
            },
        )
        self._nodes: dict[str, Any] = {"head": self._cluster.head_node}

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    def add(self, name: str, *, gpus: float = 0, resources: Mapping[str, float]) -> None:
        self._nodes[name] = self._cluster.add_node(
            num_cpus=1, num_gpus=gpus, resources=dict(resources), object_store_memory=_STORE_BYTES
        )

    def kill(self, name: str) -> None:
        self._cluster.remove_node(self._nodes.pop(name), allow_graceful=False)

    def stop(self) -> None:
        self._cluster.shutdown()

    def replicas(self, deployment: str) -> dict[str, list[int]]:
        """The processes of `application:deployment` by the nodes that have any."""
        title = f"ray::ServeReplica:{deployment}"
        found = {name: [p.pid for p in _workers(node) if _title(p).startswith(title)] for name, node in self.all}
        return {name: processes for name, processes in found.items() if processes}

    @property
    def all(self) -> list[tuple[str, Any]]:
        return list(self._nodes.items())

    def placement_groups(self) -> list[dict[str, Any]]:
        """Those that are there, as Ray was asked for them."""
        table = self._cluster.global_state.placement_group_table()
        return [group for group in table.values() if group["state"] != "REMOVED"]


@contextlib.contextmanager
def nodes() -> Iterator[Nodes]:
    # Ray notes the cluster there for whoever starts Ray next on this machine.
    noted = Path(tempfile.gettempdir(), "ray", "ray_current_cluster")
    before = noted.read_bytes() if noted.exists() else None
    made = Nodes()
    try:
        yield made
    finally:
        made.stop()
        noted.unlink(missing_ok=True)
        if before is not None:
            noted.write_bytes(before)


def _workers(node: Any) -> list[psutil.Process]:
    [raylet] = node.all_processes["raylet"]
    return psutil.Process(raylet.process.pid).children(recursive=True)


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
