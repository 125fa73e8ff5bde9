"""The shipper before a keeper that forgets, refuses and is away."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from deployments.logs import shipper as shippers
from deployments.logs.batch import Batch, decode
from deployments.logs.shipper import Shipper
from tests.logs.sources import messages, source


class Keeper:
    """away: whether it does not answer. broken: how many times nobody even knows where it is. deaf: whether it takes
    what it is told, and its answer is lost."""

    def __init__(self) -> None:
        self.taken: list[Batch] = []
        self.offsets: dict[str, int] = {}
        self.away = self.deaf = False
        self.asked = self.broken = 0

    def post(self, path: str, data: bytes) -> Any:
        self.asked += 1
        if self.away:
            raise OSError("away")
        if self.broken:
            self.broken -= 1
            raise RuntimeError("no control service")
        batch = decode(data)
        if all(self.offsets.get(path, span.start) == span.start for path, span in batch.files.items()):
            self.taken.append(batch)
            self.offsets.update({path: span.end for path, span in batch.files.items()})
        if self.deaf:
            raise OSError("lost")
        return {"files": {path: self.offsets[path] for path in batch.files}}

    @property
    def messages(self) -> list[str]:
        return [message for batch in self.taken if batch.count for message in messages(batch.body)]


@pytest.fixture
def keeper() -> Keeper:
    return Keeper()


@pytest.fixture
def out(tmp_path: Path) -> Path:
    path = tmp_path / "out"
    path.write_text("before\n")
    return path


@pytest.fixture
def shipper(keeper: Keeper, out: Path) -> Shipper:
    return Shipper(source(), [str(out)], keeper)


def say(file: Path, text: str) -> None:
    with file.open("a") as printed:
        printed.write(text)


def test_replica_is_known_before_it_says_anything(shipper: Shipper, keeper: Keeper, out: Path) -> None:
    assert shipper.ship()
    assert keeper.offsets == {str(out): len("before\n")}
    assert keeper.messages == []


def test_lines_are_sent_once(shipper: Shipper, keeper: Keeper, out: Path) -> None:
    for text in ("a\n", "b\nc", "d\n"):
        say(out, text)
        shipper.ship()
    assert keeper.messages == ["a", "b", "cd"]


def test_lines_whose_answer_was_lost_are_not_doubled(shipper: Shipper, keeper: Keeper, out: Path) -> None:
    say(out, "a\n")
    keeper.deaf = True
    with pytest.raises(OSError, match="lost"):
        shipper.ship()
    keeper.deaf = False
    say(out, "b\n")
    shipper.ship()
    shipper.ship()
    assert keeper.messages == ["a", "b"]


def test_keeper_that_is_away_gets_everything_later(shipper: Shipper, keeper: Keeper, out: Path) -> None:
    keeper.away = True
    for number in range(100):
        say(out, f"{number}\n")
        with pytest.raises(OSError, match="away"):
            shipper.ship()
    keeper.away = False
    shipper.ship()
    assert keeper.messages == [str(number) for number in range(100)]


def test_silent_replica_is_heard_once_a_second(
    shipper: Shipper, keeper: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(10):
        shipper.ship()
    assert keeper.asked == 1
    monkeypatch.setattr(shippers, "BEAT_S", 0)
    shipper.ship()
    assert keeper.asked == 2


def test_shipper_outlives_what_goes_wrong(
    shipper: Shipper, keeper: Keeper, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shippers, "AWAY_S", 0.01)
    keeper.broken = 3
    shipper.start()
    say(out, "a\n")
    deadline = time.monotonic() + 10
    while keeper.messages != ["a"]:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    shipper.stop()
    assert keeper.broken == 0


def test_stop_sends_the_last_words_and_says_that_they_are(shipper: Shipper, keeper: Keeper, out: Path) -> None:
    shipper.start()
    say(out, "a\nlast words")
    shipper.stop()
    assert keeper.messages == ["a", "last words"]
    assert [batch.ended for batch in keeper.taken][-2:] == [False, True]


def test_stop_without_a_keeper_ends_in_time(shipper: Shipper, keeper: Keeper, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shippers, "FLUSH_S", 0.1)
    keeper.away = True
    shipper.start()
    began = time.monotonic()
    shipper.stop()
    assert time.monotonic() - began < 2
    assert keeper.taken == []


def test_process_without_files_is_heard_all_the_same(keeper: Keeper) -> None:
    shipper = Shipper(source(), [], keeper)
    shipper.ship()
    shipper.ship()
    shipper.start()
    shipper.stop()
    assert keeper.messages == [shippers.NO_FILES]
    assert keeper.taken[-1].ended
