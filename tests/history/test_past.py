from __future__ import annotations

from pathlib import Path
from typing import Any

from deployments.history.intervals import Interval
from deployments.history.past import COARSE, FINE, Past
from deployments.history.samples import Figures, Sample
from deployments.history.store import Store

T0 = 1_795_305_600  # a minute begins


def fed(past: Past, seconds: int, since: int = T0) -> Past:
    """A model with as many tokens per second as seconds have gone by."""
    for at in range(since, since + seconds, FINE.step_s):
        past.add(Sample(at, {"a": Figures(at - T0 + 1)}), {}, {})
    return past


def rates(told: dict[str, Any]) -> list[float | None]:
    found: list[float | None] = told["models"]["a"]["tokens_per_s"]
    return found


def test_quarter_of_an_hour_is_told_finely_and_more_coarsely() -> None:
    past = fed(Past(), 1000)
    fine = past.told(900, T0 + 1000)
    assert (fine["step_s"], len(fine["times"]), fine["until"] - fine["since"]) == (2, 450, 900)
    assert rates(fine) == [at - T0 + 1 for at in fine["times"]]
    assert fine["times"][-1] == T0 + 998
    coarse = past.told(3600, T0 + 1000)
    assert (coarse["step_s"], len(coarse["times"])) == (60, 60)
    assert rates(coarse)[-15:] == [60 * n + 30 for n in range(1, 16)], "the mean of each minute"
    assert rates(coarse)[:-16] == [None] * 44


def test_what_is_kept_is_bounded() -> None:
    past = fed(Past(), 2000)
    assert {step: samples.maxlen for step, samples in past._samples.items()} == {2: 450, 60: 1440}
    assert len(past._samples[FINE.step_s]) == FINE.points
    assert COARSE.points == 1440


def test_time_in_which_nobody_looked_is_unknown() -> None:
    past = fed(fed(Past(), 100), 100, T0 + 200)
    found = rates(past.told(300, T0 + 300))
    assert found[50:100] == [None] * 50
    assert None not in found[:50] + found[100:]


def test_clock_that_was_set_back_tells_nothing_twice() -> None:
    past = fed(fed(Past(), 100), 50)
    assert [sample.at for sample in past._samples[FINE.step_s]] == list(range(T0, T0 + 100, 2))


def test_intervals_of_the_range_are_told_the_oldest_first() -> None:
    past = Past()
    old = Interval("a", "running", T0 - 500, reason="requested")
    past.add(Sample(T0), {"a": old}, {})
    past.add(Sample(T0 + 2), {"b": Interval("b", "running", T0 + 1)}, {"a": (T0 + 1, "made room for b")})
    told = past.told(60, T0 + 10)["residency"]
    assert [(one["model"], one["from"], one["until"], one["reason"]) for one in told] == [
        ("a", T0 - 500, T0 + 1, "made room for b"),
        ("b", T0 + 1, None, ""),
    ]
    assert [one["model"] for one in past.told(60, T0 + 100)["residency"]] == ["b"]


def test_next_keeper_goes_on_with_what_is_on_disk(tmp_path: Path) -> None:
    path = tmp_path / "new" / "history.sqlite"
    store, past = Store(path), fed(Past(), 200)
    running = Interval("a", "running", T0 + 50.5)
    past.add(Sample(T0 + 200), {"a": running}, {})
    store.write(*past.take_new())
    store.close()
    assert past.take_new() == ([], [])
    again = Past(Store(path).read())
    assert again.told(3600, T0 + 200) == past.told(3600, T0 + 200)
    assert again.told(900, T0 + 200) == past.told(900, T0 + 200)
    again.add(Sample(T0 + 900), {}, {})  # it ended while no keeper looked: when is not known
    (told,) = again.told(900, T0 + 900)["residency"]
    assert (told["from"], told["until"]) == (T0 + 50.5, T0 + 200)


def test_interval_that_ends_is_on_disk_once(tmp_path: Path) -> None:
    store, past = Store(tmp_path / "history.sqlite"), Past()
    assert past.add(Sample(T0), {"a": Interval("a", "running", T0)}, {})
    store.write(*past.take_new())
    assert not past.add(Sample(T0 + 2), {"a": Interval("a", "running", T0)}, {})
    assert past.add(Sample(T0 + 4), {}, {"a": (T0 + 3, "idle for 60 s")})
    store.write(*past.take_new())
    assert store.read().intervals == [Interval("a", "running", T0, T0 + 3, "idle for 60 s")]


def test_old_points_and_intervals_leave_the_disk(tmp_path: Path) -> None:
    store = Store(tmp_path / "history.sqlite")
    going = Interval("b", "running", 1.0)
    store.write([(2, Sample(T0)), (2, Sample(T0 + 2)), (60, Sample(T0))], [Interval("a", "running", 1.0, 2.0), going])
    store.forget(2, T0 + 1)
    store.forget_intervals(T0)
    kept = store.read()
    assert {step: [s.at for s in samples] for step, samples in kept.samples.items()} == {2: [T0 + 2], 60: [T0]}
    assert kept.intervals == [going]


def test_file_that_is_none_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "history.sqlite"
    path.write_bytes(b"no database" * 100)
    store = Store(path)
    assert store.read().intervals == []
    store.close()
