"""`llm-manager run MODEL` at a terminal: a chat."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import click

from ingress.cli.answer import Answer, Message, Screen, Settings, ask
from ingress.cli.client import Client

HELP = """\
/set system TEXT         what the model is told before all else
/set temperature NUMBER  how freely it answers
/clear                   forgets what was said
/bye                     ends the chat, as Ctrl-D does
\"""                      begins and ends a text of several lines
Ctrl-C                   stops an answer"""
QUOTES = '"""'


@dataclass(frozen=True)
class Command:
    """A line that begins with a slash, in its parts."""

    name: str
    what: str = ""
    value: str = ""


def parse(text: str) -> Command | str:
    """A command, or what is said to the model."""
    if not text.startswith("/") or "\n" in text:
        return text
    name, what, value = (*text[1:].split(None, 2), "", "", "")[:3]
    return Command(name, what, value.strip())


def changed(settings: Settings, command: Command) -> Settings:
    """By `/set`. Raises: ValueError, with what is wrong."""
    if command.what == "system":
        return replace(settings, system=command.value or None)
    if command.what != "temperature":
        raise ValueError("What can be set: system, temperature.")
    try:
        temperature = float(command.value)
    except ValueError:
        temperature = -1.0
    if not 0 <= temperature < float("inf"):
        raise ValueError("The temperature is a number of at least 0.")
    return replace(settings, temperature=temperature)


def read(line: Callable[[str], str]) -> str:
    """What is typed next, with the lines between quotes as one text. line: asks for one, with a prompt.

    Raises: EOFError, KeyboardInterrupt.
    """
    text = line(">>> ").strip()
    if not text.startswith(QUOTES):
        return text
    lines = [text.removeprefix(QUOTES)]
    while not lines[-1].rstrip().endswith(QUOTES):
        lines.append(line("... "))
    return "\n".join(lines).rstrip().removesuffix(QUOTES).strip("\n")


class Chat:
    def __init__(self, client: Client, settings: Settings, screen: Screen, verbose: bool) -> None:
        self._client = client
        self._settings = settings
        self._screen = screen
        self._verbose = verbose
        self._messages: list[Message] = []

    def run(self) -> None:
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  lets input() edit the line
        click.echo("/? shows what can be typed here, /bye ends the chat.")
        while True:
            try:
                if not self._turn():
                    return
            except EOFError:
                click.echo()
                return
            except KeyboardInterrupt:
                click.echo("\n/bye or Ctrl-D ends the chat.")

    def _turn(self) -> bool:
        """Whether there is a next one. Raises: EOFError, KeyboardInterrupt, of what is typed."""
        said = parse(read(input))
        if isinstance(said, Command):
            return self._do(said)
        if said:
            self._ask(said)
        return True

    def _do(self, command: Command) -> bool:
        """Whether the chat goes on."""
        if command.name == "clear":
            self._messages.clear()
        elif command.name == "set":
            try:
                self._settings = changed(self._settings, command)
            except ValueError as error:
                click.echo(str(error), err=True)
        elif command.name in ("?", "help"):
            click.echo(HELP)
        elif command.name != "bye":
            click.echo(f"There is no /{command.name}. /? shows what there is.", err=True)
        return command.name != "bye"

    def _ask(self, said: str) -> None:
        """A question that failed was not asked; of an answer that was stopped, what came of it stays."""
        messages, answer = [*self._messages, {"role": "user", "content": said}], Answer()
        try:
            ask(self._client, self._settings, messages, self._screen, answer)
        except click.ClickException as error:
            error.show()
            return
        except KeyboardInterrupt:
            click.echo("(stopped)")
        self._messages = [*messages, {"role": "assistant", "content": answer.text}]
        if self._verbose:
            click.echo(answer.figures(), err=True)
