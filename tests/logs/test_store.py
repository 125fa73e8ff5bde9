from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from deployments.logs.batch import decode
from deployments.logs.store import Store
from tests.logs.sources import FILE, batch, messages, source


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "app" / "logs.sqlite"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    opened = Store(path, 10_000)
    yield opened
    opened.close()


def kept(store: Store, first: int = 0, model: str = "org--a") -> list[str]:
    return [message for block in store.read(model, first, 10**9) for message in messages(block.body)]


def test_batch_survives_its_way() -> None:
    sent = batch(0, 5, ["a", "ü\n"], ended=True)
    assert decode(sent.encode()) == sent


def test_lines_are_kept_in_order(store: Store) -> None:
    store.add(batch(0, 5, ["a", "b"]), 1)
    taken = store.add(batch(5, 9, ["c"]), 2)
    assert taken.offsets == {FILE: 9}
    assert taken.block is not None
    assert (taken.block.first, taken.block.next) == (2, 3)
    assert kept(store) == ["a", "b", "c"]
    assert kept(store, 2) == ["c"]


def test_batch_that_comes_again_changes_nothing(store: Store) -> None:
    store.add(batch(0, 5, ["a"]), 1)
    again = store.add(batch(0, 5, ["a"]), 1)
    longer = store.add(batch(0, 9, ["a", "b"]), 1)
    assert (again.fits, longer.fits) == (False, False)
    assert longer.offsets == {FILE: 5}
    assert kept(store) == ["a"]


def test_batch_with_a_hole_before_it_is_not_taken(store: Store) -> None:
    store.add(batch(0, 5, ["a"]), 1)
    assert store.add(batch(7, 9, ["c"]), 1).offsets == {FILE: 5}
    assert kept(store) == ["a"]


def test_replica_that_has_ended_says_no_more(store: Store) -> None:
    store.add(batch(0, 5, ["a"]), 1)
    assert store.add(batch(5, 5, [], ended=True), 1).fits
    assert not store.add(batch(5, 9, ["b"]), 1).fits
    assert store.sources() == {}


def test_replicas_number_the_lines_of_their_model_together(store: Store) -> None:
    store.add(batch(0, 5, ["a"]), 1)
    store.add(batch(0, 5, ["b"], source("r2")), 1)
    store.add(batch(0, 5, ["other"], source("r3", "org--b")), 1)
    assert kept(store) == ["a", "b"]
    assert kept(store, model="org--b") == ["other"]


def test_next_store_goes_on(store: Store, path: Path) -> None:
    store.add(batch(3, 5, ["a", "b"]), 1)
    store.close()
    after = Store(path, 10_000)
    assert kept(after) == ["a", "b"]
    assert after.sources() == {source(): {FILE: 5}}
    assert after.totals["org--a"].count == 2
    block = after.add(batch(5, 6, ["c"]), 1).block
    assert block is not None
    assert block.first == 2
    after.close()


def test_oldest_lines_go_when_there_are_too_many(store: Store) -> None:
    for i in range(100):
        store.add(batch(i, i + 1, [f"{i} {'x' * 500}"]), i)
    left = [int(line.split()[0]) for line in kept(store)]
    assert left == list(range(100 - len(left), 100))
    assert 5_000 < store.totals["org--a"].size <= 10_000
    assert store.totals["org--a"].count == len(left)
    assert store.oldest("org--a") == left[0]


def test_lines_are_cleared_by_their_age(store: Store) -> None:
    for at in (1, 2, 3):
        store.add(batch(at, at + 1, [f"{at}"]), at)
    store.add(batch(0, 5, ["other"], source("r3", "org--b")), 1)
    assert store.clear("org--a", 3) == 2
    assert store.clear("org--a", 3) == 0
    assert kept(store) == ["3"]
    assert kept(store, model="org--b") == ["other"]


def test_numbers_go_on_after_all_lines_were_cleared(store: Store, path: Path) -> None:
    store.add(batch(0, 5, ["a", "b"]), 1)
    assert store.clear("org--a", 9) == 2
    assert store.oldest("org--a") == 2
    store.close()
    after = Store(path, 10_000)
    assert after.oldest("org--a") == 2
    after.close()


def test_what_is_too_old_goes_for_all(store: Store) -> None:
    store.add(batch(0, 5, ["a"]), 1)
    store.add(batch(5, 5, [], ended=True), 1)
    store.add(batch(0, 5, ["b"], source("r2", "org--b")), 5)
    store.expire(3)
    assert kept(store) == []
    assert kept(store, model="org--b") == ["b"]
    assert store.sources() == {source("r2", "org--b"): {FILE: 5}}
    assert store.add(batch(5, 6, ["c"]), 5).fits  # the one that ended is forgotten


def test_file_that_is_no_database_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "logs.sqlite"
    path.write_bytes(b"no database" * 1000)
    store = Store(path, 10_000)
    assert kept(store) == []
    assert path.with_suffix(".broken").exists()
    store.close()


def test_reading_stops_at_the_bound(store: Store) -> None:
    for i in range(10):
        store.add(batch(i, i + 1, ["x" * 100]), 1)
    assert len(store.read("org--a", 0, 250)) == 2
    assert len(store.read("org--a", 0, 0)) == 1


def test_full_disk_takes_nothing_and_the_next_lines_are_taken_once_there_is_room(path: Path) -> None:
    store = Store(path, 10**9)
    store.add(batch(0, 5, ["before"]), 1)
    (pages,) = store._db.execute("PRAGMA page_count").fetchone()
    store._db.execute(f"PRAGMA max_page_count = {pages}")
    for _ in range(2):
        with pytest.raises(sqlite3.OperationalError, match="full"):
            store.add(batch(5, 9, ["x" * 100_000]), 2)
    assert kept(store) == ["before"]
    store._db.execute("PRAGMA max_page_count = 1000000")
    assert store.add(batch(5, 9, ["after"]), 3).fits
    assert kept(store) == ["before", "after"]
    store.close()


def test_file_that_cannot_be_opened_now_is_not_set_aside(path: Path) -> None:
    store = Store(path, 10_000)
    store.add(batch(0, 5, ["a"]), 1)
    store.close()
    away = path.rename(path.with_name("elsewhere"))
    path.mkdir()
    with pytest.raises(sqlite3.OperationalError):
        Store(path, 10_000)
    path.rmdir()
    away.rename(path)
    assert kept(Store(path, 10_000)) == ["a"]
