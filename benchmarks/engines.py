"""What the server adds to real engines: vLLM and MLX through us, and in their own servers.

Usage: python -m benchmarks.engines [--quick] [--rounds N] [--only vllm|mlx] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from benchmarks import command, engines_report, vllm_client
from benchmarks.command import Result, say
from benchmarks.engines_report import BARE, HAPROXY, PROXY, Round, Turn
from benchmarks.load import HOST, TIMEOUT_S, Load, Measure, measure
from benchmarks.servers import AS_SERVED, CACHE, SOURCE, Child, answers, behind_haproxy, free_port, ours, serve_run
from deployments.engines.vllm import device
from deployments.sources import prepare

KV_CACHE_BYTES = 2**30
SETTLE_S = 10.0  # Ray makes the next process ready: not beside the first load
ENV = {
    **AS_SERVED,
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "TORCH_COMPILE_DISABLE": "1",  # as the server sets it on CPUs
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
}

Measured = Callable[[Load, int], Measure]
"""From a load and a seed: the same one makes the same prompts."""


@dataclass(frozen=True)
class Subject:
    """An engine that is measured.

    model: as the configuration has it. bare: the command of its own server, less the port; asked for `bare_name` there.
    streams: of each load, by its concurrency.
    """

    name: str
    model: Mapping[str, Any]
    bare: Sequence[str]
    bare_name: str
    streams: Mapping[int, int]
    tokens: int
    measured: Measured


def vllm(folder: Path, *, quick: bool) -> Subject:
    weights = prepare(SOURCE, CACHE, plain=True)
    args: dict[str, Any] = {"max_model_len": 2048}
    on_cpu = device.on_cpu(None)
    if on_cpu:
        args |= {"enforce_eager": True, "kv_cache_memory_bytes": KV_CACHE_BYTES}
    placements = [] if on_cpu else [{"num_gpus": 1}]
    return Subject(
        name="vllm",
        model={"engine": "vllm", "source": str(weights), "engine_args": args, "placements": placements},
        bare=[
            *("vllm.entrypoints.openai.api_server", "--host", HOST, "--model", str(weights)),
            *("--served-model-name", "vllm", "--disable-uvicorn-access-log", *_flags(args)),
        ],
        bare_name="vllm",
        streams={1: 2, 8: 8, 32: 32} if quick else {1: 12, 8: 32, 32: 96},
        tokens=16 if quick else 64,
        measured=lambda load, seed: vllm_client.measure(load, weights, folder, seed),
    )


def mlx(folder: Path, *, quick: bool) -> Subject:
    weights = prepare(SOURCE, CACHE)
    end = json.loads((weights / "config.json").read_text())["eos_token_id"]
    return Subject(
        name="mlx",
        model={"engine": "mlx", "source": SOURCE},
        bare=["mlx_lm", "server", "--model", str(weights)],
        bare_name="default_model",
        streams={1: 1, 8: 8} if quick else {1: 3, 8: 8},
        tokens=16 if quick else 32,
        measured=partial(_measure_mlx, end),
    )


SUBJECTS = {"vllm": vllm, "mlx": mlx}


def _measure_mlx(end: int, load: Load, seed: int) -> Measure:
    prompt = f"{seed} is a number. Tell a long story about it and about the number"
    return measure(replace(load, real=True, prompt=prompt, forbidden=[end]))


def run(subjects: Sequence[Subject], rounds: int, folder: Path) -> list[Round]:
    """One engine is up at a time; our servers stay, with nothing loaded, while others are measured."""
    with ExitStack() as stack:
        models = [{"name": s.name, **s.model} for s in subjects]
        application = ours("engines", "/", models, cache_dir=str(CACHE), allow_without_keys=True)
        urls = {
            name: stack.enter_context(_server(folder, name, application, env))
            for name, env in ((PROXY, {}), (HAPROXY, behind_haproxy()))
        }
        seen: list[Round] = [{} for _ in range(rounds)]
        for subject in subjects:
            ways = {BARE: partial(_bare_up, subject, folder)}
            ways |= {name: partial(_ours_up, url, subject.name) for name, url in urls.items()}
            with _bare_up(subject, folder):
                say(f"{subject.name}: the first start fills the page cache")
            for number, measured in enumerate(seen):
                for name in list(ways)[:: -1 if number % 2 else 1]:
                    with ways[name]() as (url, start_s):
                        model = subject.bare_name if name == BARE else subject.name
                        measured[subject.name, name] = turn = _turn(subject, url, model, start_s, number)
                    say(_line(number, subject.name, name, turn))
    return seen


def _turn(subject: Subject, url: str, model: str, start_s: float, number: int) -> Turn:
    time.sleep(SETTLE_S)
    loads = {}
    for concurrency, streams in subject.streams.items():
        load = Load(url, model, concurrency, streams, subject.tokens)
        loads[concurrency] = subject.measured(load, 100 * number + concurrency)
    return Turn(start_s, loads)


@contextmanager
def _server(folder: Path, name: str, application: dict[str, Any], env: Mapping[str, str]) -> Iterator[str]:
    with serve_run(folder, name, [application], {**ENV, **env}, models=()) as (child, url):
        child.wait_for(partial(_healthy, url), f"{url} is not healthy")
        yield url


@contextmanager
def _bare_up(subject: Subject, folder: Path) -> Iterator[tuple[str, float]]:
    """Its URL, and the seconds from the process's start to the first answer."""
    port = free_port()
    url = f"http://{HOST}:{port}"
    started = time.perf_counter()
    log = folder / f"bare-{subject.name}.log"
    child = Child(log, [sys.executable, "-m", *subject.bare, "--port", str(port)], ENV)
    try:
        child.wait_ready({subject.bare_name: url})
        yield url, time.perf_counter() - started
    finally:
        child.stop()


@contextmanager
def _ours_up(url: str, model: str) -> Iterator[tuple[str, float]]:
    """The URL, and the seconds from the start request to the first answer."""
    started = time.perf_counter()
    _post(f"{url}/api/models/{model}/start")
    if not answers(url, model):
        raise RuntimeError(f"{url} has started {model} and does not answer for it")
    try:
        yield url, time.perf_counter() - started
    finally:
        _post(f"{url}/api/models/{model}/stop")


def _post(url: str) -> None:
    answer = httpx.post(url, timeout=TIMEOUT_S, trust_env=False)
    if answer.is_error:
        raise RuntimeError(f"{url}: {answer.text}")


def _healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=5, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def _flags(args: Mapping[str, Any]) -> Iterator[str]:
    for name, value in args.items():
        yield f"--{name.replace('_', '-')}" + ("" if value is True else f"={value}")


def _line(number: int, engine: str, server: str, turn: Turn) -> str:
    loads = ", ".join(f"{streams}: {seen.chunks_per_s:.1f} tokens/s" for streams, seen in turn.loads.items())
    return f"round {number + 1}: {engine:4} {server:8} up after {turn.start_s:.1f} s; {loads}"


def measured(options: argparse.Namespace, folder: Path) -> Result:
    names = [options.only] if options.only else list(SUBJECTS)
    rounds = run([SUBJECTS[name](folder, quick=options.quick) for name in names], options.rounds, folder)
    return Result(engines_report.markdown(rounds), engines_report.problems(rounds))


def main(arguments: list[str]) -> int:
    parser = command.parser("engines", __doc__, rounds=3)
    parser.add_argument("--only", choices=list(SUBJECTS), help="measure one engine alone")
    return command.run(parser, arguments, measured)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
