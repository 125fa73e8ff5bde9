from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from ingress.cli import chat
from ingress.cli.answer import Settings
from ingress.cli.chat import Command
from tests.cli.server import Asked, Events, Server
from tests.cli.terminal import Terminal, at_terminal
from tests.cli.test_run import DONE, ROUTE, chunk

PROMPT = ">>> "


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Hello /bye", "Hello /bye"),
        ("", ""),
        ("/bye", Command("bye")),
        ("/set system  Be  short. ", Command("set", "system", "Be  short.")),
        ("/set", Command("set")),
        ("/usr/bin is\na folder", "/usr/bin is\na folder"),
    ],
)
def test_line_is_a_command_or_said(text: str, said: str | Command) -> None:
    assert chat.parse(text) == said


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        (["  one "], "one"),
        (['"""one"""'], "one"),
        (['"""', "one", "  two", '"""'], "one\n  two"),
        (['"""one', 'two"""  '], "one\ntwo"),
        (['"""', '"""'], ""),
    ],
)
def test_text_between_quotes_has_several_lines(lines: list[str], text: str) -> None:
    typed = iter(lines)
    assert chat.read(lambda _: next(typed)) == text
    assert list(typed) == []


def test_settings_are_changed_one_by_one() -> None:
    settings = chat.changed(Settings("a", max_tokens=5), Command("set", "system", "Be short."))
    assert settings == Settings("a", "Be short.", None, 5)
    assert chat.changed(settings, Command("set", "temperature", "0.5")).temperature == 0.5
    assert chat.changed(settings, Command("set", "system")).system is None


@pytest.mark.parametrize(
    "command", ["temperature", "temperature hot", "temperature -1", "temperature nan", "colour red"]
)
def test_settings_that_cannot_be_are_refused(command: str) -> None:
    what, _, value = command.partition(" ")
    with pytest.raises(ValueError, match=r"at least 0|What can be set"):
        chat.changed(Settings("a"), Command("set", what, value))


@pytest.fixture
def terminal(server: Server) -> Iterator[Terminal]:
    """A chat with a model that says how many messages it got."""

    def answer(asked: Asked) -> Events:
        return Events([chunk(f"got {len(asked.data['messages'])}"), DONE])

    server.answers[ROUTE] = answer
    with at_terminal("run", "org/a", environment={"LLM_MANAGER_URL": server.url, "NO_COLOR": ""}) as terminal:
        terminal.wait(PROMPT)
        yield terminal


def said(server: Server) -> list[tuple[str, str]]:
    return [(message["role"], message["content"]) for message in server.asked[-1].data["messages"]]


def test_chat_remembers_until_it_is_cleared(terminal: Terminal, server: Server) -> None:
    terminal.type("one\n")
    terminal.wait("got 1")
    terminal.wait(PROMPT)
    terminal.type('"""two\nlines"""\n')
    terminal.wait("got 3")
    terminal.wait(PROMPT)
    assert said(server) == [("user", "one"), ("assistant", "got 1"), ("user", "two\nlines")]
    terminal.type("/clear\n/set system Be short.\n/set temperature 0\nthree\n")
    terminal.wait("got 2")
    terminal.wait(PROMPT)
    assert said(server) == [("system", "Be short."), ("user", "three")]
    assert server.asked[-1].data["temperature"] == 0
    terminal.type("/bye\n")
    assert terminal.ended() == 0


def test_line_can_be_edited(terminal: Terminal, server: Server) -> None:
    terminal.type("world\x01hello \x05!\n")  # Ctrl-A, Ctrl-E
    terminal.wait("got 1")
    assert said(server) == [("user", "hello world!")]


def test_interrupt_stops_the_answer_and_not_the_chat(terminal: Terminal, server: Server) -> None:
    def endless() -> Iterator[Any]:
        while True:
            yield chunk("more ")
            server.hung_up.wait(0.01)

    quick, server.answers[ROUTE] = server.answers[ROUTE], Events(endless())
    terminal.type("one\n")
    terminal.wait("more more")
    terminal.type("\x03")
    terminal.wait("(stopped)")
    terminal.wait(PROMPT)
    assert server.hung_up.wait(30)
    server.answers[ROUTE] = quick
    terminal.type("two\n")
    terminal.wait("got 3")
    assert said(server)[1][1].startswith("more more ")
    terminal.wait(PROMPT)
    terminal.type("half a line")
    terminal.wait("half a line")
    terminal.interrupt("/bye or Ctrl-D ends the chat.")
    terminal.wait(PROMPT)
    terminal.type("\x04")
    assert terminal.ended() == 0


def test_failure_is_told_and_its_question_forgotten(terminal: Terminal, server: Server) -> None:
    quick = server.answers[ROUTE]
    server.refuses(ROUTE, 503, "No room.", "capacity")
    terminal.type("one\n")
    terminal.wait("Error: No room. [capacity]")
    terminal.wait(PROMPT)
    server.answers[ROUTE] = quick
    terminal.type("two\n")
    terminal.wait("got 1")


def test_commands_that_are_none_are_told(terminal: Terminal) -> None:
    terminal.type("/nothing\n")
    terminal.wait("There is no /nothing.")
    terminal.type("/set temperature hot\n")
    terminal.wait("The temperature is a number of at least 0.")
    terminal.type("/?\n")
    terminal.wait("/set system TEXT")


@pytest.mark.parametrize(
    ("no_color", "shown"),
    [("", "\x1b[2mHm.\r\n\x1b[0mGood\r\n"), ("1", "Thinking …\r\nHm.\r\n… done.\r\nGood\r\n")],
)
def test_reasoning_is_set_apart_at_a_terminal(server: Server, no_color: str, shown: str) -> None:
    server.streams(ROUTE, chunk(reasoning="Hm."), chunk("Good"), DONE)
    environment = {"LLM_MANAGER_URL": server.url, "NO_COLOR": no_color}
    with at_terminal("run", "org/a", "Hello?", environment=environment) as terminal:
        assert terminal.ended() == 0
        assert terminal.shown == shown
