"""What is done to a server under load."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx

from benchmarks import faults_cluster
from benchmarks.faults_cluster import Cluster
from benchmarks.faults_load import SHORT_EVERY_S
from benchmarks.faults_server import AIMED, FAR, FAST, NAME, REAL, VLLM, World
from benchmarks.load import PATH
from benchmarks.roles import REPLICA
from benchmarks.servers import Child, answers

STOP_S = 30.0
SLOW_EVERY_S = 2.0  # of a real engine on CPUs
HEAD_S = 30.0  # in which a head ends whose control service is gone

Act = Callable[[World], AbstractContextManager[object]]
"""Entered when it is to happen, at once: no request is sent meanwhile. Left when the load has ended."""


@dataclass(frozen=True)
class Fault:
    """what: a line of the table. hit: the model that short requests are for, one each `every_s`. waits_s: longer than
    this nobody waits for the first whole answer. before: entered before there is any load."""

    what: str
    act: Act
    hit: str = AIMED
    every_s: float = SHORT_EVERY_S
    waits_s: float = 60.0
    before: Act = nullcontext


def _killed(role: str) -> Act:
    @contextmanager
    def act(world: World) -> Iterator[None]:
        world.processes(role)[0].kill()
        yield

    return act


def _killed_replica(model: str) -> Act:
    @contextmanager
    def act(world: World) -> Iterator[None]:
        world.replica(model).kill()
        yield

    return act


@contextmanager
def _killed_engine(world: World) -> Iterator[None]:
    world.engine().kill()
    yield


@contextmanager
def _killed_haproxy(world: World) -> Iterator[None]:
    world.haproxy().kill()
    yield


@contextmanager
def _halted(world: World) -> Iterator[None]:
    process = world.replica(AIMED)
    process.send_signal(signal.SIGSTOP)
    yield


@contextmanager
def _halted_ingress(world: World) -> Iterator[None]:
    world.processes("ingress")[0].send_signal(signal.SIGSTOP)
    yield


@contextmanager
def _full_disk(world: World) -> Iterator[None]:
    """And the keeper is killed on it, so that the next one must begin on a full disk."""
    filler = world.data / "filler"
    try:
        _fill(filler.as_posix())
        for keeper in world.processes("keeper"):
            keeper.kill()
        yield
    finally:
        filler.unlink(missing_ok=True)


def _fill(path: str) -> None:
    with open(path, "wb", buffering=0) as file:
        for size in (2**16, 2**10, 1):
            try:
                while file.write(b"x" * size):
                    pass
            except OSError:
                continue


class _FarNode:
    """A node of which the model `far` would rather have than the first one."""

    @contextmanager
    def joined(self, world: World) -> Iterator[None]:
        assert isinstance(world.child, Child)
        with faults_cluster.joined(world.child, world.folder, FAR) as self._node:
            self._node.wait_for(lambda: self._serves(world), "the model does not go to the node that has joined")
            yield

    def _serves(self, world: World) -> bool:
        """A model that is up stays where it is."""
        httpx.post(f"{world.url}/api/models/{FAR}/stop", timeout=STOP_S)
        answers(world.url, FAR)
        return any(" ".join(p.cmdline()).startswith(f"{REPLICA}:{NAME}:{FAR}") for p in self._node.family())

    @contextmanager
    def killed(self, world: World) -> Iterator[None]:
        faults_cluster.kill(self._node.family())
        yield


_FAR = _FarNode()


@contextmanager
def _killed_head(world: World) -> Iterator[None]:
    """The control service dies, `ray start --block` ends the head with it, and the head is started again."""
    assert isinstance(world.child, Cluster)
    nodes, head, family = world.child, world.child.head, world.child.head.family()
    (control,) = world.processes("gcs")

    def restart() -> None:
        head.wait_ended(HEAD_S)
        faults_cluster.kill(family)
        nodes.start_head()

    control.kill()
    restarting = threading.Thread(target=restart)
    restarting.start()
    yield
    restarting.join()


SLOW_TOKENS = 20_000


@contextmanager
def _slow_clients(world: World) -> Iterator[None]:
    """Ten that read a byte a second of long answers."""
    done = threading.Event()
    readers = [threading.Thread(target=_read_slowly, args=(world.url, done)) for _ in range(10)]
    for reader in readers:
        reader.start()
    try:
        yield
    finally:
        done.set()
        for reader in readers:
            reader.join()


def _read_slowly(url: str, done: threading.Event) -> None:
    where = urlsplit(url)
    body = (
        f'{{"model": "{FAST}", "max_tokens": {SLOW_TOKENS}, "stream": true, '
        f'"messages": [{{"role": "user", "content": "{"hi " * 100}"}}]}}'
    )
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect((where.hostname, where.port))
        head = (
            f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        sock.sendall((head + body).encode())
        while not done.wait(1):
            sock.recv(1)


AT_SERVES_PROXY: Mapping[str, Fault] = {
    "replica": Fault("a model's replica, kill -9", _killed_replica(AIMED)),
    "mlx": Fault("a real model's replica (MLX), kill -9", _killed_replica(REAL), hit=REAL, every_s=SLOW_EVERY_S),
    "ingress": Fault("an ingress replica, kill -9", _killed("ingress")),
    "proxy": Fault("Serve's proxy, kill -9", _killed("proxy")),
    "keeper": Fault("the keeper, kill -9", _killed("keeper")),
    "controller": Fault("Serve's controller, kill -9", _killed("controller")),
    "disk": Fault("a full disk under data_dir, and the keeper killed on it", _full_disk),
    "node": Fault("a node with a model's replica, all its processes", _FAR.killed, hit=FAR, before=_FAR.joined),
    "slow": Fault("ten clients that read a byte a second", _slow_clients),
    "halt": Fault("a model's replica hangs (SIGSTOP)", _halted, waits_s=180),
    "halt-ingress": Fault("an ingress replica hangs (SIGSTOP)", _halted_ingress, waits_s=180),
}
AT_VLLM: Mapping[str, Fault] = {
    "engine": Fault("vLLM's engine process, kill -9", _killed_engine, hit=VLLM, every_s=SLOW_EVERY_S, waits_s=180),
}
AT_CLUSTER: Mapping[str, Fault] = {
    "head": Fault("Ray's control service (GCS), and with it the head, started again", _killed_head, waits_s=120),
}
AT_HAPROXY: Mapping[str, Fault] = {
    "haproxy": Fault("HAProxy, kill -9", _killed_haproxy),
    "haproxy-actor": Fault("Serve's actor beside HAProxy, kill -9", _killed("other actors")),
    "haproxy-ingress": Fault("an ingress replica, kill -9", _killed("ingress")),
    "haproxy-replica": Fault("a model's replica, kill -9", _killed_replica(AIMED)),
    "haproxy-controller": Fault("Serve's controller, kill -9", _killed("controller")),
}
