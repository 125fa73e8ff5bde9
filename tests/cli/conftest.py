from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from ingress.cli import main
from tests.cli.server import Server, serving


@dataclass(frozen=True)
class Ended:
    status: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


Run = Callable[..., Ended]


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as server:
        yield server


@pytest.fixture
def cli(server: Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command against the server, in this process."""
    monkeypatch.setenv("LLM_MANAGER_URL", server.url)
    monkeypatch.delenv("LLM_MANAGER_KEY", raising=False)

    def run(*arguments: str) -> Ended:
        status = main.run(arguments)
        return Ended(status, *capsys.readouterr())

    return run
