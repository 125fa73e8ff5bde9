"""What Serve says too often."""

from __future__ import annotations

import logging

SERVES_LOGGER = "ray.serve"
_DRAINS = "Waiting for an additional "


class OnceADrain(logging.Filter):
    """At each look at a replica that finishes its answers Serve says that it goes on, twenty times a second."""

    def __init__(self) -> None:
        super().__init__()
        self._said = False

    def filter(self, record: logging.LogRecord) -> bool:
        if not str(record.msg).startswith(_DRAINS):
            return True
        said, self._said = self._said, True
        return not said
