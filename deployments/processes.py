"""Which deployments still have a replica's process, asked of Ray in a thread of its own: the controller never waits."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable

logger = logging.getLogger("ray.serve.llm_manager")

LOOK_S = 0.25
_ACTOR = "SERVE_REPLICA::"  # Serve names a replica's actor SERVE_REPLICA::application#deployment#id


class ReplicaProcesses:
    """The replicas' processes as they were at most about LOOK_S ago; looked at from the first question on."""

    def __init__(self, names: Callable[[], list[str]] | None = None) -> None:
        """names: blocking; the names of all living actors. Default: Ray's."""
        self._names = names or _living_actors
        self._seen: frozenset[tuple[str, str]] = frozenset()
        self._watched = False

    def has(self, application: str, deployment: str) -> bool:
        if not self._watched:
            self._watched = True
            threading.Thread(target=_watch, args=(weakref.ref(self),), name="replica-processes", daemon=True).start()
        return (application, deployment) in self._seen

    def look(self) -> None:
        parts = (name.removeprefix(_ACTOR).split("#") for name in self._names() if name.startswith(_ACTOR))
        self._seen = frozenset((application, deployment) for application, deployment, _ in parts)


def _watch(watched: weakref.ref[ReplicaProcesses]) -> None:
    """Ends with the object: Serve makes a new policy for every configuration."""
    pause = threading.Event()
    while processes := watched():
        try:
            processes.look()
        except Exception:
            logger.exception("The replicas' processes cannot be listed.")
        del processes
        pause.wait(LOOK_S)


def _living_actors() -> list[str]:
    import ray

    return [actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True)]
