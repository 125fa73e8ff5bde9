"""Whether anything grows: minutes of mixed traffic with swaps on one real Serve, and the memory of its processes.

Usage: python -m benchmarks.soak [--quick] [--minutes M] [--out FILE]

The echo models' memory is no engine's: what is looked at is all that carries requests to them.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks import command, traffic
from benchmarks.command import Result, say
from benchmarks.roles import Sample, Sampler
from benchmarks.servers import AS_SERVED, Child, serve_run
from benchmarks.tables import machine, table, target, targets
from benchmarks.traffic import Tally

MINUTES, QUICK_MINUTES = 20.0, 2.0
PERIOD_S = 10.0
TOLD = 6  # each so many samples a line says how it stands
GROWTH = 1.05  # of the last quarter's median over the second one's


@dataclass(frozen=True)
class Soak:
    """cores: that the server took, on average."""

    seconds: float
    tally: Tally
    samples: Sequence[Sample]
    cores: float


@dataclass(frozen=True)
class Growth:
    """Of one role, in MB: the first sample, the medians of the second and of the last quarter."""

    role: str
    first: float
    second: float
    last: float

    @property
    def ratio(self) -> float:
        return self.last / self.second


def growths(samples: Sequence[Sample]) -> Iterable[Growth]:
    """Of the roles that are there in both quarters."""
    began, ended = samples[0].at, samples[-1].at
    quarter = (ended - began) / 4
    for role in sorted({role for sample in samples for role in sample.mb}):
        seen = [(sample.at - began, sample.mb[role]) for sample in samples if role in sample.mb]
        second = [mb for at, mb in seen if quarter <= at < 2 * quarter]
        last = [mb for at, mb in seen if at >= 3 * quarter]
        if second and last:
            yield Growth(role, seen[0][1], median(second), median(last))


async def soak(child: Child, url: str, seconds: float) -> Soak:
    sampler = Sampler(traffic.NAME)
    samples = [sampler.sample(child.family())]
    started_with_s = sampler.cpu_s

    async def watch() -> None:
        while True:
            await asyncio.sleep(PERIOD_S)
            samples.append(await asyncio.to_thread(lambda: sampler.sample(child.family())))
            if len(samples) % TOLD == 0:
                say(line(samples[-1], began))

    began = time.monotonic()
    watching = asyncio.create_task(watch())
    tally = await traffic.run(url, seconds)
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    took = samples[-1].at - began
    return Soak(took, tally, samples, (sampler.cpu_s - started_with_s) / took)


def line(sample: Sample, began: float) -> str:
    sizes = ", ".join(f"{role} {mb:.0f}" for role, mb in sorted(sample.mb.items()))
    return f"{(sample.at - began) / 60:.1f} min, MB: {sizes}"


def run(minutes: float, folder: Path) -> Soak:
    application = traffic.application(str(folder / "data"))
    with serve_run(folder, traffic.NAME, [application], AS_SERVED, models=traffic.MODELS[:1]) as (child, url):
        say(f"{minutes:g} minutes of traffic on {url}")
        return asyncio.run(soak(child, url, 60 * minutes))


def markdown(seen: Soak) -> str:
    found = list(growths(seen.samples))
    rows = [(one.role, *(f"{mb:.1f}" for mb in (one.first, one.second, one.last)), f"{one.ratio:.3f}") for one in found]
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(seen.tally.done.items()))
    parts = [
        f"{machine('ray')}; {seen.seconds / 60:.1f} minutes, the server took {seen.cores:.2f} cores.",
        f"Done: {kinds}.",
        "Memory that is shared with nobody, MB; of the quarters, the median:",
        table(("process", "at first", "second quarter", "last quarter", "last / second"), rows),
        targets(
            [
                target("failed requests", len(seen.tally.failed), 0, most=True),
                *(target(f"{one.role}: last / second quarter", one.ratio, GROWTH, most=True) for one in found),
            ]
        ),
    ]
    return "\n\n".join(parts) + "\n"


def measured(options: argparse.Namespace, folder: Path) -> Result:
    seen = run(options.minutes or (QUICK_MINUTES if options.quick else MINUTES), folder)
    return Result(markdown(seen), seen.tally.failed)


def main(arguments: list[str]) -> int:
    parser = command.parser("soak", __doc__)
    parser.add_argument("--minutes", type=float, help=f"default {MINUTES:g}, with --quick {QUICK_MINUTES:g}")
    return command.run(parser, arguments, measured)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
