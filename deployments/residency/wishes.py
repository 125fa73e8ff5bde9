"""What is still to be done of what operators wish, and of `auto_start`."""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import Literal

from deployments.residency.board import PINS, SUPERSEDED, Row, Wish
from deployments.residency.demand import Model

ANSWERS = 64  # kept for each model: everybody who joined a start finds theirs

Asked = Literal["up", "down", "auto"] | None


class Wishes:
    """done: wishes that the board need not show any more."""

    def __init__(self, wishes: Iterable[Wish], models: Container[str], now: float) -> None:
        self._now = now
        self._of: dict[str, list[Wish]] = {}
        self._pins: dict[str, list[Wish]] = {}
        self.done: list[str] = []
        for wish in wishes:
            if wish.model in models:
                (self._pins if wish.kind in PINS else self._of).setdefault(wish.model, []).append(wish)
            else:
                self.done.append(wish.id)

    def pin(self, name: str, row: Row) -> None:
        """Notes whether the model is to be pinned, which is done with that."""
        shown = self._pins.get(name, [])
        self.done += [wish.id for wish in shown if wish.id in row.answers]
        if wishes := [wish for wish in shown if wish.id not in row.answers]:
            row.pinned = wishes[-1].kind == "pin"
            self._answer(row, wishes)

    @property
    def models(self) -> Iterable[str]:
        """Those that anything is wished of."""
        return self._of.keys() | self._pins.keys()

    def asked(self, name: str, model: Model, row: Row, *, leaving: bool, failed: bool) -> Asked:
        """Answers what is done, and says what is not. leaving: whether a process of a model that is down may still be
        there. failed: whether it was started and has none."""
        shown = self._of.get(name, [])
        self.done += [wish.id for wish in shown if wish.id in row.answers]
        wishes = [wish for wish in shown if wish.id not in row.answers]
        if older := [wish for wish in wishes if wish.kind != wishes[-1].kind]:
            self._answer(row, older, f"{SUPERSEDED}: {wishes[-1].kind}")
        wishes = [wish for wish in wishes if wish.kind == wishes[-1].kind]  # one that joins is answered with the last
        if not wishes:
            row.wish = None
            return _auto_start(model, row)
        wish = wishes[-1]
        if row.wish != wish.id:
            row.wish, row.wish_at = wish.id, self._now
            row.refused = False
        row.auto_done = True
        if wish.kind != "stop":
            return self._start(row, wishes, failed)
        if row.replicas:
            return "down"
        if not leaving:
            row.held = True
            self._answer(row, wishes)
        return None

    def _start(self, row: Row, wishes: list[Wish], failed: bool) -> Asked:
        if row.replicas == 0:
            if row.refused:
                self._answer(row, wishes, row.reason)
                return None
            return "up"
        began_before = row.started_at is not None and row.started_at < row.wish_at
        # One that was up is started again by Serve; that may fail too.
        failed = failed and (not row.was_up or row.failure is not None)
        if began_before and (wishes[-1].kind == "restart" or failed):
            return "down"
        if row.up_since is not None:
            self._answer(row, wishes)
            return None
        if failed:
            self._answer(row, wishes, row.failure or "its process ended while it was starting")
            return None
        return "up"

    def _answer(self, row: Row, wishes: list[Wish], problem: str = "") -> None:
        self.done += [wish.id for wish in wishes]
        row.answers = dict([*row.answers.items(), *((wish.id, problem) for wish in wishes)][-ANSWERS:])


def _auto_start(model: Model, row: Row) -> Asked:
    if not model.auto_start or row.auto_done:
        return None
    row.auto_done = row.replicas > 0
    return None if row.auto_done else "auto"
