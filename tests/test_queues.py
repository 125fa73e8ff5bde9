from __future__ import annotations

import pytest

from deployments.errors import QueueFull
from ingress.queues import Place, Queue


def waiting(queue: Queue) -> Place:
    place = Place(queue)
    place.waits()
    return place


def test_request_above_the_bound_is_refused_until_an_answer_begins() -> None:
    queue = Queue("a", 1)
    first = waiting(queue)
    with pytest.raises(QueueFull) as full:
        waiting(queue)
    assert (full.value.status, full.value.code, full.value.headers()) == (429, "queue_full", {"retry-after": "2"})
    first.begins()
    assert queue.waiting == 0
    waiting(queue)
    assert queue.waiting == 1


def test_request_that_goes_to_another_replica_keeps_its_place() -> None:
    queue = Queue("a", 1)
    place = waiting(queue)
    place.waits()
    assert queue.waiting == 1


@pytest.mark.parametrize("begun", [True, False])
def test_request_that_has_ended_waits_no_more(begun: bool) -> None:
    queue = Queue("a", 1)
    place = waiting(queue)
    if begun:
        place.begins()
    place.ended(499)
    assert queue.waiting == 0


def test_request_that_was_refused_gives_no_place_back() -> None:
    queue = Queue("a", 1)
    waiting(queue)
    refused = Place(queue)
    with pytest.raises(QueueFull):
        refused.waits()
    refused.ended(429)
    assert queue.waiting == 1


def test_queue_without_a_bound_takes_all() -> None:
    queue = Queue("a", None)
    places = [waiting(queue) for _ in range(50)]
    assert queue.waiting == 50
    for place in places:
        place.ended(499)
    assert queue.waiting == 0
