"""The load generator, a process of its own: sends requests, checks every answer, prints a Measure as JSON.

Usage: python -m benchmarks.load '{"url": …, "model": …, …}', the fields of Load
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiohttp

ROOT = Path(__file__).resolve().parents[1]
HOST = "127.0.0.1"
KEY = "sk-benchmark-0123456789"
WITH_KEY = {"Authorization": f"Bearer {KEY}"}
"""As clients send one, needed or not."""
PATH = "/v1/chat/completions"
TIMEOUT_S = 300.0
EVENT = b"data: "
END = b"data: [DONE]\n\n"
NEVER = -100.0  # as a logit's bias
FRAME_EVENTS = 3  # the role, the finish reason and [DONE]


@dataclass(frozen=True)
class Load:
    """`streams` answers of `tokens` tokens by `concurrency` clients, each of whom sends one request after the other.

    spread_s: the clients start spread over this time.
    pace_ms: the model's pause before each token, to tell how far a stream falls behind; 0 where it has none.
    mixed: every second answer is not streamed.
    real: a real engine answers, which decides what an event brings: its usage counts the tokens, at temperature 0, and
    the first one with content is the first token.
    prompt: the client's number follows it.
    forbidden: tokens that a real engine must not answer, such as the one that ends an answer.
    """

    url: str
    model: str
    concurrency: int
    streams: int
    tokens: int = 128
    spread_s: float = 0.0
    pace_ms: float = 0.0
    mixed: bool = False
    real: bool = False
    prompt: str = "hi"
    forbidden: Sequence[int] = ()


@dataclass(frozen=True)
class Measure:
    """chunks_per_s: of a real engine, tokens.
    behind: how much longer than its pace the slowest stream took from its first to its last byte; 0.02 is 2 %.
    broken: answers that were not whole. problem: what was wrong with the last one of them.
    """

    chunks_per_s: float
    ttft_p50_ms: float
    ttft_p99_ms: float
    gap_p50_ms: float
    gap_p99_ms: float
    behind: float
    broken: int
    problem: str


class BrokenAnswerError(Exception):
    """An answer that is not whole."""


@dataclass
class _Seen:
    chunks: int = 0
    ttft_s: list[float] = field(default_factory=list)
    gaps_s: list[float] = field(default_factory=list)
    lasted_s: list[float] = field(default_factory=list)
    broken: int = 0
    problem: str = ""


def request_body(model: str, tokens: int, *, stream: bool, prompt: str = "hi") -> dict[str, Any]:
    return {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": tokens,
        "stream": stream,
    }


def measure(load: Load) -> Measure:
    """Runs the load in a process of its own. Raises: subprocess.SubprocessError."""
    command = [sys.executable, "-m", "benchmarks.load", json.dumps(asdict(load))]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, timeout=2 * TIMEOUT_S, check=True)
    return Measure(**json.loads(done.stdout))


async def run(load: Load) -> Measure:
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, headers=WITH_KEY) as session:
        if not load.real:  # whose prompts take much longer than connections
            opening = Load(load.url, load.model, load.concurrency, load.concurrency, tokens=1)
            await asyncio.gather(*[_client(session, opening, _Seen(), k) for k in range(opening.concurrency)])
        seen = _Seen()
        started = time.perf_counter()
        await asyncio.gather(*[_client(session, load, seen, k) for k in range(load.concurrency)])
        elapsed = time.perf_counter() - started
    pace_s = load.tokens * load.pace_ms / 1000
    return Measure(
        chunks_per_s=seen.chunks / elapsed,
        ttft_p50_ms=_percentile(seen.ttft_s, 0.5) * 1000,
        ttft_p99_ms=_percentile(seen.ttft_s, 0.99) * 1000,
        gap_p50_ms=_percentile(seen.gaps_s, 0.5) * 1000,
        gap_p99_ms=_percentile(seen.gaps_s, 0.99) * 1000,
        behind=max(seen.lasted_s, default=0.0) / pace_s - 1 if pace_s else 0.0,
        broken=seen.broken,
        problem=seen.problem,
    )


async def _client(session: aiohttp.ClientSession, load: Load, seen: _Seen, number: int) -> None:
    await asyncio.sleep(load.spread_s * number / load.concurrency)
    for turn in range(load.streams // load.concurrency):
        try:
            if load.real:
                await _generated(session, load, seen, number)
            elif load.mixed and (number + turn) % 2:
                await _whole(session, load)
            else:
                await _stream(session, load, seen)
        except (BrokenAnswerError, aiohttp.ClientError, TimeoutError) as error:
            seen.broken += 1
            seen.problem = repr(error)


async def _stream(session: aiohttp.ClientSession, load: Load, seen: _Seen) -> None:
    parts: list[bytes] = []
    times: list[float] = []
    asked = time.perf_counter()
    async with session.post(load.url + PATH, json=request_body(load.model, load.tokens, stream=True)) as answer:
        if answer.status != 200:
            raise BrokenAnswerError(answer.status, await answer.text())
        async for part in answer.content.iter_any():
            times.append(time.perf_counter())
            parts.append(part)
    body = b"".join(parts)
    events = body.count(EVENT)
    if events != load.tokens + FRAME_EVENTS or not body.endswith(END):
        raise BrokenAnswerError(f"{events} events, the last bytes are {body[-80:]!r}")
    seen.chunks += events
    seen.ttft_s.append(times[0] - asked)
    seen.lasted_s.append(times[-1] - times[0])
    seen.gaps_s.extend(after - before for before, after in pairwise(times))


async def _generated(session: aiohttp.ClientSession, load: Load, seen: _Seen, number: int) -> None:
    body = {
        **request_body(load.model, load.tokens, stream=True, prompt=f"{load.prompt} {number}"),
        "temperature": 0,
        "logit_bias": dict.fromkeys(map(str, load.forbidden), NEVER),
        "stream_options": {"include_usage": True},
    }
    times: list[float] = []
    tokens, line = 0, b""
    asked = time.perf_counter()
    async with session.post(load.url + PATH, json=body) as answer:
        if answer.status != 200:
            raise BrokenAnswerError(answer.status, await answer.text())
        async for line in _data_lines(answer.content):
            if content(line.decode()):
                times.append(time.perf_counter())
            if b'"completion_tokens"' in line:
                tokens = json.loads(line.removeprefix(EVENT))["usage"]["completion_tokens"]
    if tokens != load.tokens or not times or line != END.strip():
        raise BrokenAnswerError(f"{tokens} tokens, the last line is {line!r}")
    seen.chunks += tokens
    seen.ttft_s.append(times[0] - asked)
    seen.lasted_s.append(times[-1] - times[0])
    seen.gaps_s.extend(after - before for before, after in pairwise(times))


async def _data_lines(stream: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    async for line in stream:
        if line.startswith(EVENT):
            yield line.strip()


def content(line: str) -> str:
    """The text that a line of a chat stream brings."""
    data = line.removeprefix(EVENT.decode())
    if data == line or data == "[DONE]":
        return ""
    return "".join(choice["delta"].get("content") or "" for choice in json.loads(data)["choices"])


async def _whole(session: aiohttp.ClientSession, load: Load) -> None:
    async with session.post(load.url + PATH, json=request_body(load.model, load.tokens, stream=False)) as answer:
        body = await answer.json(content_type=None)
        if answer.status != 200 or body["usage"]["completion_tokens"] != load.tokens:
            raise BrokenAnswerError(answer.status, body)


def _percentile(values: list[float], share: float) -> float:
    return sorted(values)[int((len(values) - 1) * share)] if values else 0.0


if __name__ == "__main__":
    print(json.dumps(asdict(asyncio.run(run(Load(**json.loads(sys.argv[1])))))))
