"""Stop strings, matched on text: a token border inside one does not hide it."""

from __future__ import annotations

from collections.abc import Sequence


class StopMatcher:
    """Feeds text through and ends at the first stop string that is complete.

    Text that may still become a stop string is held back; nothing of the stop string is ever released.
    """

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.matched = False

    def feed(self, text: str) -> str:
        """The text that is safe to send now."""
        if self.matched:
            return ""
        text = self._held + text
        start = self._match_start(text)
        if start is not None:
            self.matched, self._held = True, ""
            return text[:start]
        safe = len(text) - self._possible_prefix(text)
        self._held = text[safe:]
        return text[:safe]

    def flush(self) -> str:
        """What was held back, once no more text comes."""
        held, self._held = self._held, ""
        return held

    def _match_start(self, text: str) -> int | None:
        # The one that ends first, as if the text came character by character: no split changes the answer.
        found = [(at + len(stop), at) for stop in self._stops if (at := text.find(stop)) >= 0]
        return min(found)[1] if found else None

    def _possible_prefix(self, text: str) -> int:
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        for size in range(min(longest, len(text)), 0, -1):
            tail = text[-size:]
            if any(stop.startswith(tail) for stop in self._stops):
                return size
        return 0
