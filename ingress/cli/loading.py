"""Says that a model is being loaded, while an answer of it is waited for."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import click

from ingress.cli import table
from ingress.cli.client import Client, model_path

AFTER_S = 1.0
EVERY_S = 1.0
_ERASE = "\r\x1b[K"


@contextlib.contextmanager
def told(client: Client, model: str) -> Iterator[Callable[[], None]]:
    """Tells on stderr how far the load is, until the context ends or what it gives is called."""
    teller = _Teller(client, model)
    threading.Thread(target=teller.run, daemon=True).start()
    try:
        yield teller.end
    finally:
        teller.end()


def line(model: Mapping[str, Any]) -> str:
    """Empty: it is not being loaded."""
    loading = model["loading"]
    if model["status"] != "starting" or not loading:
        return ""
    last = loading["last_seconds"]
    before = "" if last is None else f" (the last start took {table.span(last)})"
    return f"{model['name']} loads: {loading['phase']}, {table.span(loading['seconds'])} so far{before}"


class _Teller:
    def __init__(self, client: Client, model: str) -> None:
        self._client = client
        self._model = model
        self._over = threading.Event()
        self._writing = threading.Lock()  # nothing is written once the answer has begun
        self._terminal = sys.stderr.isatty()
        self._phase: str | None = None

    def run(self) -> None:
        if self._over.wait(AFTER_S):
            return
        with contextlib.suppress(Exception):  # the answer says what is wrong
            while not self._over.is_set():
                self._say(self._client.get(model_path(self._model))["model"])
                self._over.wait(EVERY_S)

    def end(self) -> None:
        with self._writing:
            if not self._over.is_set() and self._terminal and self._phase is not None:
                click.echo(_ERASE, nl=False, err=True)
            self._over.set()

    def _say(self, model: Mapping[str, Any]) -> None:
        """On a terminal in one line, else a line for each phase."""
        text = line(model)
        with self._writing:
            if not text or self._over.is_set():
                return
            new, self._phase = self._phase != model["loading"]["phase"], model["loading"]["phase"]
            if self._terminal:
                click.echo(f"{_ERASE}{text}", nl=False, err=True)
            elif new:
                click.echo(text, err=True)
