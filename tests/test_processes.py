"""Replicas' processes, from the names of Ray's actors."""

from __future__ import annotations

import threading

from deployments.processes import ReplicaProcesses

DEADLINE_S = 10


class Ray:
    """Names of living actors; each look can be waited for."""

    def __init__(self, *names: str) -> None:
        self.names = list(names)
        self.fails = False
        self._looked = threading.Semaphore(0)

    def __call__(self) -> list[str]:
        self._looked.release()
        if self.fails:
            raise ConnectionError("no Ray")
        return self.names

    def wait_for_looks(self, count: int) -> None:
        for _ in range(count):
            assert self._looked.acquire(timeout=DEADLINE_S)


def test_only_replicas_of_that_deployment_count() -> None:
    processes = ReplicaProcesses(
        Ray("SERVE_REPLICA::app#org--a#x1", "SERVE_CONTROLLER_ACTOR", "SERVE_REPLICA::other#b#x2")
    )
    processes.look()
    assert processes.has("app", "org--a")
    assert processes.has("other", "b")
    assert not processes.has("app", "b")


def test_processes_are_looked_up_from_the_first_question_on() -> None:
    ray = Ray("SERVE_REPLICA::app#a#x")
    processes = ReplicaProcesses(ray)
    processes.has("app", "a")
    ray.wait_for_looks(2)
    assert processes.has("app", "a")


def test_failed_look_keeps_what_was_seen_and_the_next_one_counts() -> None:
    ray = Ray("SERVE_REPLICA::app#a#x")
    processes = ReplicaProcesses(ray)
    processes.has("app", "a")
    ray.wait_for_looks(2)
    ray.fails = True
    ray.wait_for_looks(2)
    assert processes.has("app", "a")
    ray.names, ray.fails = [], False
    ray.wait_for_looks(3)
    assert not processes.has("app", "a")


def test_thread_ends_with_its_owner() -> None:
    before = set(threading.enumerate())
    ray = Ray()
    processes = ReplicaProcesses(ray)
    processes.has("app", "a")
    ray.wait_for_looks(1)
    (thread,) = set(threading.enumerate()) - before
    del processes
    thread.join(DEADLINE_S)
    assert not thread.is_alive()
