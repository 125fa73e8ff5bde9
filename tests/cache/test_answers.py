from __future__ import annotations

import asyncio

import pytest

from deployments.cache.answers import OVERHEAD, Answer, Answers, Flight


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def answers(clock: Clock) -> Answers:
    return Answers(3 * (OVERHEAD + 100), clock)


def answer(body: bytes = b"yes", model: str = "m", ttl_s: float = 60) -> Answer:
    return Answer(model, "application/json", body, ttl_s, stored_at=1000.0)


def flight(found: object) -> Flight:
    assert isinstance(found, Flight)
    return found


async def waiting(answers: Answers, count: int = 1) -> list[asyncio.Task[Answer | Flight]]:
    """So many who wait for `k`."""
    tasks = [asyncio.create_task(answers.join("k", "m")) for _ in range(count)]
    await asyncio.sleep(0)
    assert not any(task.done() for task in tasks)
    return tasks


def test_first_to_ask_computes_and_the_next_gets_the_answer(answers: Answers) -> None:
    mine = flight(answers.look("k", "m"))
    assert answers.look("k", "m") is None, "another one computes"
    answers.store("k", answer(), mine.id)
    assert answers.look("k", "m") == answer()
    flight(answers.look("other", "m"))


async def test_those_who_wait_get_the_answer_too(answers: Answers) -> None:
    mine = flight(answers.look("k", "m"))
    tasks = await waiting(answers, 3)
    answers.store("k", answer(), mine.id)
    assert await asyncio.gather(*tasks) == [answer()] * 3
    assert answers.stats()["models"]["m"] == {
        "entries": 1,
        "bytes": OVERHEAD + 3,
        "hits": 3,
        "joined": 3,
        "misses": 1,
    }


async def test_if_who_computes_fails_one_of_the_others_does(answers: Answers) -> None:
    mine = flight(answers.look("k", "m"))
    tasks = await waiting(answers, 3)
    answers.end("k", mine)
    done, others = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    await asyncio.sleep(0)
    assert (len(done), len(others)) == (1, 2)
    next_one = flight(done.pop().result())
    answers.store("k", answer(b"no"), mine.id)
    assert not any(task.done() for task in others), "it has given up its right"
    answers.store("k", answer(), next_one.id)
    assert await asyncio.gather(*others) == [answer()] * 2


async def test_who_waits_and_leaves_stops_nobody(answers: Answers) -> None:
    mine = flight(answers.look("k", "m"))
    leaver, stayer = await waiting(answers, 2)
    leaver.cancel()
    answers.end("k", mine)
    flight(await stayer)
    assert leaver.cancelled() or await asyncio.gather(leaver, return_exceptions=True)


async def test_joining_what_has_ended_meanwhile_is_as_looking(answers: Answers) -> None:
    mine = flight(await answers.join("k", "m"))
    answers.store("k", answer(), mine.id)
    assert await answers.join("k", "m") == answer()


def test_answer_that_was_computed_past_the_cache_replaces_the_old_one(answers: Answers) -> None:
    answers.store("k", answer(b"old"), None)
    answers.store("k", answer(b"new"), None)
    assert answers.look("k", "m") == answer(b"new")
    assert answers.stats()["entries"] == 1


def test_answer_goes_after_its_time(answers: Answers, clock: Clock) -> None:
    answers.store("short", answer(ttl_s=5), None)
    answers.store("long", answer(ttl_s=50), None)
    clock.now += 6
    flight(answers.look("short", "m"))
    assert answers.look("long", "m") == answer(ttl_s=50)
    assert answers.stats()["entries"] == 1


def test_least_recently_used_goes_when_memory_is_full(answers: Answers) -> None:
    for key in "abc":
        answers.store(key, answer(b"x" * 100), None)
    answers.look("a", "m")
    answers.stats()
    answers.clear("another")
    answers.store("d", answer(b"x" * 100), None)
    assert [isinstance(answers.look(key, "m"), Answer) for key in "abcd"] == [True, False, True, True]
    told = answers.stats()
    assert told["bytes"] <= told["max_bytes"] == 3 * (OVERHEAD + 100)


async def test_answer_that_is_larger_than_the_memory_is_given_to_those_who_wait_and_not_kept(answers: Answers) -> None:
    mine = flight(answers.look("k", "m"))
    (task,) = await waiting(answers)
    answers.store("k", answer(b"x" * 9999), mine.id)
    assert await task == answer(b"x" * 9999)
    flight(answers.look("k", "m"))


def test_answers_of_one_model_are_cleared_or_all(answers: Answers) -> None:
    answers.store("a", answer(model="m"), None)
    answers.store("b", answer(model="n"), None)
    assert answers.clear("m") == 1
    flight(answers.look("a", "m"))
    assert answers.look("b", "n") == answer(model="n")
    assert answers.clear() == 1
    assert answers.stats()["entries"] == 0


@pytest.mark.parametrize(("cleared", "kept"), [(None, False), ("m", False), ("n", True)])
def test_answer_that_is_computed_while_they_are_cleared_is_not_kept(
    answers: Answers, cleared: str | None, kept: bool
) -> None:
    mine = flight(answers.look("k", "m"))
    answers.clear(cleared)
    answers.store("k", answer(), mine.id)
    assert isinstance(answers.look("k", "m"), Answer) is kept
