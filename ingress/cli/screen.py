"""Where `llm-manager run` shows an answer: a terminal, a pipe, or lines of JSON."""

from __future__ import annotations

import sys

import click

from ingress.cli import output
from ingress.cli.answer import Screen

_DIM, _PLAIN = "\x1b[2m", "\x1b[0m"


def screen(as_json: bool) -> Screen:
    if as_json:
        return Json()
    if not sys.stdout.isatty():
        return Pipe()
    return Terminal((_DIM, _PLAIN) if output.is_coloured() else ("Thinking …\n", "… done.\n"))


class Pipe:
    """The answer alone, without what the model thought."""

    def __init__(self) -> None:
        self._at_line_start = True

    def chunk(self, data: str) -> None:
        pass

    def reasoning(self, text: str) -> None:
        pass

    def content(self, text: str) -> None:
        self._at_line_start = text.endswith("\n")
        click.echo(text, nl=False)

    def end(self) -> None:
        if not self._at_line_start:
            click.echo()
        self._at_line_start = True


class Terminal(Pipe):
    """What the model thought stands before the answer, between two marks."""

    def __init__(self, marks: tuple[str, str]) -> None:
        super().__init__()
        self._begin, self._end = marks
        self._thinks = False

    def reasoning(self, text: str) -> None:
        if not self._thinks:
            self._thinks = True
            click.echo(self._begin, nl=False)
        super().content(text)

    def content(self, text: str) -> None:
        self._stop_thinking()
        super().content(text)

    def end(self) -> None:
        self._stop_thinking()
        super().end()

    def _stop_thinking(self) -> None:
        if self._thinks:
            self._thinks = False
            super().end()
            click.echo(self._end, nl=False)


class Json(Pipe):
    """Each chunk as the server sent it."""

    def chunk(self, data: str) -> None:
        click.echo(data)

    def content(self, text: str) -> None:
        pass
