"""Traffic as a busy day brings it, at a modest pace: streams, answers in one piece, hang-ups, mistakes, readers of
logs, and those who look after the server. Which model is asked changes every few seconds, so that models swap."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from benchmarks.load import END, KEY, PATH, BrokenAnswerError, request_body
from benchmarks.servers import LIMITED, ours
from deployments.keys import hash_of

NAME = "soak"
MODELS = ("alpha", "beta", "gamma", "delta")
MOST_UP = 2
SWAP_S = 6.0  # for which a model is asked before the next one is
INTERVAL_MS = 20
TOKENS = 20
LONG = 400  # tokens of an answer that nobody waits for
PROMPTS = 40  # that are asked again, and so come from the cache
TIMEOUT_S = 120.0

HASTY = "sk-hasty-0123456789"
KEYS: Sequence[Mapping[str, Any]] = (
    {**LIMITED, "rights": ["use", "manage"]},
    {"name": "hasty", "key_hash": hash_of(HASTY), "requests_per_minute": 4},
)

LOOKS = ("/metrics", "/health", "/v1/models", "/api/models", "/api/usage?range=1h", "/api/logs/stats")


def application(data_dir: str) -> dict[str, Any]:
    """What is kept has bounds that are soon reached: what grows after that is a leak."""
    models = [{"name": name, "engine": "echo", "engine_args": {"interval_ms": INTERVAL_MS}} for name in MODELS]
    return ours(
        NAME,
        "/",
        models,
        most_up=MOST_UP,
        data_dir=data_dir,
        ingress_replicas=2,
        keys=[dict(key) for key in KEYS],
        cache={"enabled": True, "ttl_s": 30, "max_mb": 1},
        logs={"max_mb": 0.25},
    )


@dataclass(frozen=True)
class Mistake:
    """A request, and the status that refuses it."""

    body: Any
    status: int
    key: str = KEY


MISTAKES: Sequence[Mistake] = (
    Mistake(request_body("nobody", 4, stream=False), 404),
    Mistake({"messages": []}, 400),
    Mistake([1, 2], 400),
    Mistake(request_body(MODELS[0], 4, stream=False), 401, key="sk-wrong"),
    Mistake(request_body("nobody", 4, stream=True), 404),
)


@dataclass
class Tally:
    """done: answers of each kind that were as they should be. failed: a line for each other one."""

    done: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)


class Traffic:
    def __init__(self, url: str, session: aiohttp.ClientSession, until: float) -> None:
        """until: the end of it, of time.monotonic."""
        self.tally = Tally()
        self._url = url
        self._session = session
        self._until = until
        self._numbers = itertools.count()

    async def run(self) -> None:
        readers = [asyncio.create_task(self._again("log", self._log, 1.0)) for _ in range(2)]
        await asyncio.gather(
            *(self._again("stream", self._stream, 0.4) for _ in range(2)),
            self._again("whole", self._whole, 0.3),
            self._again("from the cache", self._repeated, 0.2),
            self._again("hang-up", self._hang_up, 1.0),
            self._again("mistake", self._mistake, 0.7),
            self._again("key over its limit", self._hasty, 5.0),
            self._again("look", self._look, 10.0),
        )
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)

    async def _again(self, kind: str, once: Callable[[], Awaitable[None]], pause_s: float) -> None:
        while time.monotonic() < self._until:
            try:
                await once()
                self.tally.done[kind] += 1
            except (BrokenAnswerError, aiohttp.ClientError, TimeoutError) as error:
                self.tally.failed.append(f"{time.strftime('%H:%M:%S')} {kind}: {error!r}")
            await asyncio.sleep(pause_s)

    async def _stream(self) -> None:
        async with self._ask(request_body(asked_now(), TOKENS, stream=True, prompt=self._new_prompt())) as answer:
            body = await answer.read()
        _expect(answer, (200,), body)
        if not body.endswith(END):
            raise BrokenAnswerError(f"the last bytes are {body[-80:]!r}")

    async def _whole(self) -> None:
        async with self._ask(request_body(asked_now(), TOKENS, stream=False, prompt=self._new_prompt())) as answer:
            _expect(answer, (200,), await answer.read())

    async def _repeated(self) -> None:
        prompt = f"prompt {next(self._numbers) % PROMPTS}"
        body = request_body(asked_now(), TOKENS, stream=False, prompt=prompt)
        async with self._ask({**body, "temperature": 0}) as answer:
            _expect(answer, (200,), await answer.read())

    async def _hang_up(self) -> None:
        async with self._ask(request_body(asked_now(), LONG, stream=True)) as answer:
            _expect(answer, (200,), await answer.content.read(1))
            answer.close()

    async def _mistake(self) -> None:
        wrong = MISTAKES[next(self._numbers) % len(MISTAKES)]
        async with self._ask(wrong.body, wrong.key) as answer:
            _expect(answer, (wrong.status,), await answer.read())

    async def _hasty(self) -> None:
        async with self._ask(request_body(asked_now(), 1, stream=False), HASTY) as answer:
            _expect(answer, (200, 429), await answer.read())

    async def _look(self) -> None:
        for path in LOOKS:
            async with self._session.get(self._url + path, headers=_with(KEY)) as answer:
                _expect(answer, (200,), await answer.read())

    async def _log(self) -> None:
        """One model's, until it is unloaded."""
        url = f"{self._url}/api/models/{asked_now()}/logs/stream"
        timeout = aiohttp.ClientTimeout(total=None)
        async with self._session.get(url, headers=_with(KEY), timeout=timeout) as answer:
            _expect(answer, (200,), b"")
            async for _ in answer.content.iter_any():
                pass

    def _ask(self, body: Any, key: str = KEY) -> Any:
        return self._session.post(self._url + PATH, json=body, headers=_with(key))

    def _new_prompt(self) -> str:
        return f"prompt that nobody had before, number {next(self._numbers)}"


async def run(url: str, seconds: float) -> Tally:
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session:
        traffic = Traffic(url, session, time.monotonic() + seconds)
        await traffic.run()
    return traffic.tally


def asked_now() -> str:
    return MODELS[int(time.monotonic() / SWAP_S) % len(MODELS)]


def _with(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def _expect(answer: aiohttp.ClientResponse, statuses: Sequence[int], body: bytes) -> None:
    """Raises: BrokenAnswerError."""
    if answer.status not in statuses:
        raise BrokenAnswerError(answer.status, body[-300:])
