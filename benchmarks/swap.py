"""The cold swap: how long a model that is not up takes to its first token when another one has to go for it.

Usage: python -m benchmarks.swap [--quick] [--rounds N] [--out FILE]

Beside it, what nobody can be faster than: `mlx_lm server`, started by hand for the same weights and the same request;
and the same swap inside a pool, where the process stays.
"""

from __future__ import annotations

import argparse
import json
import re
import socket
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any

import httpx

from benchmarks import command
from benchmarks.command import Result, say
from benchmarks.load import HOST, TIMEOUT_S, BrokenAnswerError
from benchmarks.servers import AS_SERVED, CACHE, READY_S, SOURCE, Child, free_port, ours, serve_run
from benchmarks.tables import Row, machine, table, target, targets, told
from deployments.sources import prepare

TOKENS = 4
TARGET = 1.2  # ours / bare
POOL_TARGET = 0.3  # in a pool / ours
IDLE_S = 5.0  # the policy takes no model within 0.75 s of its last use, and Ray makes the next process ready
POLL_S = 0.02
PATH = "/v1/completions"
PROMPT = "hi"  # one token: what a longer one takes is no part of a swap

OURS, BARE, ECHO, POOL = "ours mlx", "bare mlx", "ours echo", "mlx in a pool"
POOL_NAME = "shared"
MLX: Mapping[str, Any] = {"engine": "mlx", "source": SOURCE}
APPLICATIONS: Mapping[str, Mapping[str, Any]] = {
    "mlx": MLX,
    "echo": {"engine": "echo"},
    "pool": {**MLX, "pool": POOL_NAME},
}
MODELS = ("one", "two")

STEPS = (
    ("victim chosen", "controller", r"Model {victim}: \d+ -> 0 \("),
    ("victim gone", "controller", r"Replica\(id='\w+', deployment='{victim}', .* is stopped"),  # Serve's own line
    ("start decided", "controller", r"Model {model}: 0 -> \d+ \("),
    ("constructor begins", "replica", r"Model {model}: (preparing|loading into) "),
    ("source prepared", "replica", r"Model {model}: loading into "),
    ("engine loaded", "replica", r"Model {model}: up; "),
)
"""What Serve's logs tell of a swap: the step, whose log, which line ends it. The first token ends the last one."""

_LINE = re.compile(r"\w+ (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}) .*? -- (.*)")


@dataclass(frozen=True)
class Swap:
    """seconds: to the first token. resident: those of another prompt of that length once the model is up, None
    where nobody asked. phases: where they went, for each of STEPS and the first token; None where no line says so (the
    time is in the next one)."""

    seconds: float
    text: str
    resident: float | None = None
    phases: Sequence[float | None] = field(default_factory=list)


Round = dict[str, Swap]


class Ours:
    """An application whose two models share one place."""

    def __init__(self, name: str, url: str, logs: Path, http: httpx.Client) -> None:
        """The first of MODELS is up."""
        self._name = name
        self._url = f"{url}/{name}"
        self._logs = logs
        self._http = http
        self._up, self._down = MODELS

    def swap(self, number: int) -> Swap:
        time.sleep(IDLE_S)
        victim, model = self._up, self._down
        asked, started = time.time(), time.perf_counter()
        first, text = _ask(self._http, self._url, model)
        seconds = first - started
        self._up, self._down = model, victim
        phases = self._phases(victim, model, asked, asked + seconds)
        return Swap(seconds, text, self._resident(model, number), phases)

    def _resident(self, model: str, number: int) -> float:
        """Another prompt, so that the engine has kept nothing of it."""
        started = time.perf_counter()
        first, _ = _ask(self._http, self._url, model, prompt=str(number % 10))
        return first - started

    def _phases(self, victim: str, model: str, asked: float, first: float) -> list[float | None]:
        """The lines that count lie between the request and its first token: nothing else happens then."""
        files = {"controller": "controller_*.log", "replica": f"replica_{self._name}_{model}_*.log"}
        phases: list[float | None] = []
        last = asked
        for _, whose, pattern in STEPS:
            line = re.compile(pattern.format(victim=victim, model=model))
            times = [at for at, text in _lines(self._logs, files[whose]) if asked <= at <= first and line.match(text)]
            phases.append(max(0.0, times[0] - last) if times else None)
            last = times[0] if times else last
        return [*phases, first - last]


def application(name: str) -> dict[str, Any]:
    models = [{"name": model, **APPLICATIONS[name]} for model in MODELS]
    pools = [{"name": POOL_NAME, "max_models_per_replica": 1}] if name == "pool" else []
    return ours(name, f"/{name}", models, most_up=1, cache_dir=str(CACHE), pools=pools)


def bare(folder: Path, weights: Path, http: httpx.Client) -> Swap:
    time.sleep(IDLE_S)
    port = free_port()
    server = [sys.executable, "-m", "mlx_lm", "server", "--model", str(weights), "--port", str(port)]
    started = time.perf_counter()
    child = Child(folder / "bare.log", server, AS_SERVED)
    try:
        _wait_for(port)
        first, text = _ask(http, f"http://{HOST}:{port}", "default_model")
    finally:
        child.stop()
    return Swap(first - started, text)


def run(rounds: int, folder: Path) -> list[Round]:
    weights = prepare(SOURCE, CACHE)
    applications = [application(name) for name in APPLICATIONS]
    with (
        httpx.Client(timeout=TIMEOUT_S, trust_env=False) as http,
        serve_run(folder, "swap", applications, AS_SERVED, models=MODELS[:1]) as (child, url),
    ):
        mlx, echo, pool = (Ours(name, url, child.serve_logs(), http) for name in APPLICATIONS)
        seen = []
        for number in range(rounds + 1):
            swaps = {
                OURS: mlx.swap(number),
                BARE: bare(folder, weights, http),
                ECHO: echo.swap(number),
                POOL: pool.swap(number),
            }
            what = f"round {number}" if number else "warm-up"  # the first one fills the page cache
            say(f"{what}: " + ", ".join(f"{name} {swap.seconds:.2f} s" for name, swap in swaps.items()))
            seen.append(swaps)
    return seen[1:]


def markdown(rounds: Sequence[Round]) -> str:
    names = (OURS, BARE, ECHO, POOL)
    times = [
        *((str(number), *_times([swaps], names)) for number, swaps in enumerate(rounds, 1)),
        ("median", *_times(rounds, names)),
    ]
    phases = [
        (str(number), name, *("" if s is None else f"{s:.2f}" for s in swaps[name].phases))
        for name in (OURS, ECHO)
        for number, swaps in enumerate(rounds, 1)
    ]
    parts = [
        f"{machine('ray', 'mlx-lm')}; {len(rounds)} interleaved rounds; seconds to the first token; a prompt of one.",
        table(("round", *names, "ours / bare", "pool / ours"), times),
        "Where the seconds of ours go, each column up to what it names:",
        table(("round", "swap", *(step for step, _, _ in STEPS), "first token"), phases),
        "What is not the engine's work for a prompt, which it has to do for a model that is up too:",
        table(("swap", "whole", "model is up", "difference"), [_parted(rounds, name) for name in (OURS, POOL)]),
        targets(_targets(rounds)),
    ]
    return "\n\n".join(parts) + "\n"


def _parted(rounds: Sequence[Round], name: str) -> Row:
    whole = median(swaps[name].seconds for swaps in rounds)
    resident = median(swaps[name].resident or 0 for swaps in rounds)
    return (name, f"{whole:.2f}", f"{resident:.2f}", f"{median(_own(swaps[name]) for swaps in rounds):.2f}")


def _own(swap: Swap) -> float:
    return swap.seconds - (swap.resident or 0)


def _times(rounds: Sequence[Round], names: Iterable[str]) -> list[str]:
    """Medians."""
    seconds = [median(swaps[name].seconds for swaps in rounds) for name in names]
    return [f"{value:.2f}" for value in (*seconds, _ratio(rounds, OURS, BARE), _ratio(rounds, POOL, OURS))]


def _ratio(rounds: Sequence[Round], name: str, other: str) -> float:
    return median(swaps[name].seconds / swaps[other].seconds for swaps in rounds)


def _targets(rounds: Sequence[Round]) -> Iterable[Row]:
    own = median(_own(swaps[POOL]) / _own(swaps[OURS]) for swaps in rounds)
    yield target("cold swap to the first token: ours / bare", _ratio(rounds, OURS, BARE), TARGET, most=True)
    yield target(
        "swap inside a pool / cold swap, to the first token", _ratio(rounds, POOL, OURS), POOL_TARGET, most=True
    )
    yield told("the same, less the first token of a model that is up", f"{own:.2f}")


def problems(rounds: Sequence[Round]) -> list[str]:
    """A line for each answer that differs from the others of its kind: at temperature 0 there is one."""
    found = []
    for names in ((BARE, OURS, POOL), (ECHO,)):
        wanted = rounds[0][names[0]].text
        for number, swaps in enumerate(rounds, 1):
            texts = {name: swaps[name].text for name in names}
            found += [f"{n}, round {number}: {t!r}, not {wanted!r}" for n, t in texts.items() if t != wanted]
    return found


def measured(options: argparse.Namespace, folder: Path) -> Result:
    rounds = run(options.rounds, folder)
    return Result(markdown(rounds), problems(rounds))


def main(arguments: list[str]) -> int:
    return command.run(command.parser("swap", __doc__, rounds=5), arguments, measured)


def _ask(http: httpx.Client, url: str, model: str, prompt: str = PROMPT) -> tuple[float, str]:
    """When the first text came (time.perf_counter), and the whole. Raises: BrokenAnswerError."""
    body = {"model": model, "prompt": prompt, "max_tokens": TOKENS, "stream": True, "temperature": 0}
    first, text, last = 0.0, "", ""
    with http.stream("POST", url + PATH, json=body) as answer:
        if answer.status_code != 200:
            raise BrokenAnswerError(model, answer.status_code, answer.read())
        for line in answer.iter_lines():
            if words := _text(line):
                first = first or time.perf_counter()
                text += words
            last = line or last
    if not text or last != "data: [DONE]":
        raise BrokenAnswerError(f"{model}: the text is {text!r}, the last line {last!r}")
    return first, text


def _text(line: str) -> str:
    """That a line of a completion's stream brings."""
    data = line.removeprefix("data: ")
    if data == line or data == "[DONE]":
        return ""
    return "".join(choice["text"] for choice in json.loads(data)["choices"])


def _wait_for(port: int) -> None:
    """Returns once the port takes a connection. Raises: OSError."""
    deadline = time.monotonic() + READY_S
    while True:
        try:
            socket.create_connection((HOST, port), timeout=1).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(POLL_S)


def _lines(folder: Path, files: str) -> Iterable[tuple[float, str]]:
    """The time (of the clock) and the text of each line that Serve logged."""
    for file in folder.glob(files):
        for line in file.read_text().splitlines():
            if seen := _LINE.match(line):
                yield datetime.strptime(seen[1], "%Y-%m-%d %H:%M:%S,%f").timestamp(), seen[2]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
