"""The control service's key-value store, in memory."""

from __future__ import annotations


class Memory:
    """journal: what was written, in order: `put KEY` and `delete KEY`. gets: how often something was asked for. fails:
    whether it cannot be reached."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.journal: list[str] = []
        self.gets = 0
        self.fails = False

    def put(self, key: str, value: bytes) -> None:
        self._reach()
        self.journal.append(f"put {key}")
        self.values[key] = value

    def get(self, key: str) -> bytes | None:
        self.gets += 1
        self._reach()
        return self.values.get(key)

    def keys(self, prefix: str) -> list[str]:
        """In no order, as the control service gives them."""
        self._reach()
        return sorted((key for key in self.values if key.startswith(prefix)), reverse=True)

    def delete(self, key: str) -> None:
        self._reach()
        self.journal.append(f"delete {key}")
        self.values.pop(key, None)

    def _reach(self) -> None:
        if self.fails:
            raise ConnectionError("no control service")
