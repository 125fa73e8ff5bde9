from __future__ import annotations

import copy
from typing import Any

import mlx.core as mx
import pytest

from deployments.engines.mlx.detokenizer import SafeDetokenizer
from deployments.engines.mlx.jobs import Job, Sampling
from deployments.engines.mlx.sampling import Guard, make_processors, make_sampler

FLAT = mx.zeros((1, 50))
PROMPT = mx.array([1, 2, 3])


def drawn(sampling: Sampling, logits: Any = FLAT, count: int = 8) -> list[int]:
    sample = make_sampler(sampling)
    return [sample(logits).item() for _ in range(count)]


def test_seed_repeats_whatever_is_sampled_beside_it() -> None:
    first = drawn(Sampling(seed=-3))
    mx.random.uniform()
    assert drawn(Sampling(seed=-3)) == first
    assert drawn(Sampling(seed=4)) != first


@pytest.mark.parametrize(
    "sampling",
    [Sampling(temperature=0), Sampling(temperature=1e-300), Sampling(top_k=1), Sampling(top_p=0), Sampling(min_p=1)],
)
def test_narrowest_sampling_takes_the_likeliest(sampling: Sampling) -> None:
    assert set(drawn(sampling, mx.arange(50)[None].astype(mx.float32))) == {49}


def test_top_k_may_exceed_the_vocabulary() -> None:
    assert len(drawn(Sampling(top_k=10_000))) == 8


def test_penalties_count_the_answer_and_not_the_prompt() -> None:
    [penalise] = make_processors(Job("", Sampling(presence_penalty=1, frequency_penalty=0.5), None))
    assert penalise(PROMPT, mx.zeros((1, 6))).tolist() == [[0, 0, 0, 0, 0, 0]]
    assert penalise(mx.array([1, 2, 3, 4, 4, 5]), mx.zeros((1, 6))).tolist() == [[0, 0, 0, 0, -2, -1.5]]


def test_logit_bias_is_added() -> None:
    [bias] = make_processors(Job("", Sampling(logit_bias={2: 5.0}), None))
    assert bias(PROMPT, mx.zeros((1, 4))).tolist() == [[0, 0, 5, 0]]


def test_plain_job_needs_no_processor() -> None:
    assert make_processors(Job("", Sampling(), None)) == []


def test_guard_ends_the_sequence_and_never_raises() -> None:
    def broken(tokens: Any, logits: Any) -> Any:
        raise RuntimeError("no")

    guard = Guard([broken], {2, 99})
    for _ in range(2):
        logits = guard(PROMPT, mx.zeros((1, 4)))
        assert mx.argmax(logits).item() == 2
        assert mx.isinf(logits).tolist() == [[True, True, False, True]]
    assert str(guard.failure) == "no"


class FakeDetokenizer:
    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.text, self.offset = "", 0

    def add_token(self, token: int) -> None:
        word = [" a", " b"][token]
        self.text += word if self.text else word.strip()

    def finalize(self) -> None:
        raise KeyError("x")

    @property
    def last_segment(self) -> str:
        segment = self.text[self.offset :]
        self.offset = len(self.text)
        return segment


def test_detokenizer_keeps_the_first_space_and_skips_what_has_no_text() -> None:
    detokenizer = copy.copy(SafeDetokenizer(FakeDetokenizer()))
    detokenizer.reset()
    texts = []
    for token in (0, 7, 1):
        detokenizer.add_token(token)
        texts.append(detokenizer.last_segment)
    detokenizer.finalize()
    assert [*texts, detokenizer.last_segment] == [" a", "", " b", ""]
