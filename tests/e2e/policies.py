"""An autoscaling policy that the tests put in the place of ours."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any


class EvictsBusyModels:
    """One place, given to whoever waits: it looks at no unfinished request, as a careless policy would."""

    def __init__(self, **_: float) -> None:
        self._up: Hashable = None

    def __call__(self, contexts: Mapping[Hashable, Any]) -> tuple[dict[Hashable, int], dict[Hashable, Any]]:
        for key, context in contexts.items():
            if context.target_num_replicas == 0 and (context.total_queued_requests or 0) > 0:
                self._up = key
        return {
            key: int(key == self._up) for key, c in contexts.items() if c.target_num_replicas != int(key == self._up)
        }, {}
