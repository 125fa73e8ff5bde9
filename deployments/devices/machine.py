"""Reads this machine within a bounded time, whatever its drivers do."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any

from deployments.devices import cpu, cuda, mlx
from deployments.devices.reading import Failed, Machine

WITHIN_S = 2.0


class Reader:
    """Asks each device in a thread of its own. A device that hangs is not asked again until it has answered."""

    def __init__(
        self,
        cpu: Callable[[], Any] = cpu.read,
        cuda: Callable[[], Any] = cuda.read,
        mlx: Callable[[], Any] = mlx.read,
    ) -> None:
        self._probes = {"cpu": cpu, "cuda": cuda, "mlx": mlx}
        self._asked: dict[str, Future[Any]] = {}
        self._lock = threading.Lock()

    def read(self, within_s: float = WITHIN_S) -> Machine:
        with self._lock:
            asked = {name: self._ask(name) for name in self._probes}
        wait(asked.values(), within_s)
        return Machine(**{name: _outcome(future, within_s) for name, future in asked.items()})

    def _ask(self, name: str) -> Future[Any]:
        asked = self._asked.get(name)
        if asked is None or asked.done():
            asked = self._asked[name] = Future()
            work = (self._probes[name], asked)
            threading.Thread(target=_answer, args=work, name=f"devices-{name}", daemon=True).start()
        return asked


def _answer(probe: Callable[[], Any], asked: Future[Any]) -> None:
    try:
        asked.set_result(probe())
    except BaseException as error:
        asked.set_exception(error)


def _outcome(asked: Future[Any], within_s: float) -> Any:
    if not asked.done():
        return Failed(f"No answer within {within_s:g} s.")
    if error := asked.exception():
        return Failed(f"{type(error).__name__}: {error}")
    return asked.result()


_HERE = Reader()


def read() -> Machine:
    """The one that this process runs on."""
    return _HERE.read()
