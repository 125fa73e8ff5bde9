"""What is known of the last day: points of two resolutions, and when models were up."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from deployments.history import samples as series
from deployments.history.intervals import Interval, follow
from deployments.history.samples import Sample
from deployments.history.store import Kept

DAY_S = 86_400
INTERVALS = 10_000


@dataclass(frozen=True)
class Resolution:
    step_s: int
    kept_s: int

    @property
    def points(self) -> int:
        return self.kept_s // self.step_s


FINE = Resolution(2, 900)
COARSE = Resolution(60, DAY_S)
RESOLUTIONS = (FINE, COARSE)


class Past:
    def __init__(self, kept: Kept | None = None) -> None:
        kept = kept or Kept()
        self._samples = {r.step_s: deque(kept.samples.get(r.step_s, ()), r.points) for r in RESOLUTIONS}
        self._ended = deque((i for i in kept.intervals if i.until is not None), INTERVALS)
        self._going = {i.model: i for i in kept.intervals if i.until is None}
        self._seen_at: float = max((sample.at for sample in self._samples[FINE.step_s]), default=0)
        self._new_samples: list[tuple[int, Sample]] = []
        self._new_intervals: list[Interval] = []

    def add(self, sample: Sample, standing: Mapping[str, Interval], ends: Mapping[str, tuple[float, str]]) -> bool:
        """The next moment. standing, ends: as in `intervals.follow`. Returns whether a model began or ended
        anything."""
        self._note_minute(sample.at)
        self._keep(FINE, sample)
        going, ended = follow(self._going, standing, ends, self._seen_at)
        changed = [*ended, *(one for name, one in going.items() if one != self._going.get(name))]
        self._new_intervals += changed
        self._going, self._seen_at = going, float(sample.at)
        self._ended.extend(ended)
        return bool(changed)

    def take_new(self) -> tuple[list[tuple[int, Sample]], list[Interval]]:
        """What is not on disk yet, as `Store.write` wants it; each is taken once."""
        new = self._new_samples, self._new_intervals
        self._new_samples, self._new_intervals = [], []
        return new

    def told(self, seconds: int, now: float, models: Collection[str] | None = None) -> dict[str, Any]:
        """The last so many seconds, as `/api/history` tells them; of all models, or of these. Any thread may ask."""

        def meant(model: str) -> bool:
            return models is None or model in models

        resolution = FINE if seconds <= FINE.kept_s else COARSE
        step_s = resolution.step_s
        last = int(now // step_s - 1) * step_s  # the one that is not over is not known yet
        times = list(range(last - seconds // step_s * step_s + step_s, last + 1, step_s))
        intervals = [one for one in (*self._ended, *self._going.values()) if (one.until or now) >= now - seconds]
        return {
            "since": now - seconds,
            "until": now,
            "step_s": step_s,
            "residency": [one.plain() for one in sorted(intervals, key=lambda one: one.since) if meant(one.model)],
            "times": times,
            **series.series(list(self._samples[step_s]), times, meant),
        }

    def _note_minute(self, at: int) -> None:
        """Makes one of those of the minute before, once that is over."""
        fine = self._samples[FINE.step_s]
        if not fine or fine[-1].at // COARSE.step_s == at // COARSE.step_s:
            return
        minute = fine[-1].at // COARSE.step_s * COARSE.step_s
        self._keep(COARSE, series.mean(minute, [sample for sample in fine if sample.at >= minute]))

    def _keep(self, resolution: Resolution, sample: Sample) -> None:
        samples = self._samples[resolution.step_s]
        if samples and samples[-1].at >= sample.at:  # the clock was set back
            return
        samples.append(sample)
        self._new_samples.append((resolution.step_s, sample))
