from __future__ import annotations

import json
import warnings
from types import SimpleNamespace

import pytest
from opentelemetry.sdk.trace import TracerProvider
from starlette.requests import Request

from deployments.usage.record import Record
from ingress.activity import Activity
from ingress.forward import Upstream
from ingress.onlooker import until_asked
from ingress.outbox import Outbox
from ingress.records import Records
from ingress.running import Running
from ingress.traces import Traces
from tests.test_outbox import Keeper

with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # from within Ray's own modules
    from ingress.observing import Observed, Observing

CHAT = "/v1/chat/completions"
REPLICA = SimpleNamespace(url="http://x", headers={})
UPSTREAM = Upstream(CHAT, {"x-request-id": "id-7", "traceparent": "the client's"}, b"{}")
ACTIVITY = Activity(Running(), Keeper(), "r1")
REQUEST = Request({"type": "http", "method": "POST", "path": "/x", "headers": []})
USAGE = b'data: {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 5}}\n\n'


@pytest.fixture
def made() -> list[Record]:
    return []


def begin(made: list[Record], traces: Traces | None = None, path: str = CHAT) -> Observed:
    records = Records("r1")
    records.on_finished.append(made.append)
    return Observing(records, ACTIVITY, traces=traces).begin(REQUEST, path)


def streamed(observed: Observed, *chunks: bytes) -> bytes:
    left = b""
    for chunk in chunks:
        for onlooker in observed.onlookers:
            chunk = onlooker.chunk(REPLICA, chunk, more=True)
        left += chunk
    return left


@pytest.mark.parametrize(("options", "left"), [({}, b""), ({"include_usage": True}, USAGE)])
def test_usage_is_counted_and_the_client_gets_it_if_he_asked(
    made: list[Record], options: dict[str, bool], left: bytes
) -> None:
    observed = begin(made)
    data = {"model": "a", "stream": True, **({"stream_options": options} if options else {})}
    sent = json.loads(observed.reads(json.dumps(data).encode(), data))
    assert sent["stream_options"] == {"include_usage": True}
    assert streamed(observed, USAGE) == left
    observed.onlookers[0].ended(200)
    assert (made[0].prompt_tokens, made[0].completion_tokens) == (3, 5)


def test_without_traces_the_request_goes_on_as_it_is(made: list[Record]) -> None:
    assert begin(made).traced(UPSTREAM) is UPSTREAM


def test_with_traces_the_engine_goes_on_with_ours(made: list[Record]) -> None:
    headers = begin(made, Traces(TracerProvider())).traced(UPSTREAM).headers
    assert headers.keys() == UPSTREAM.headers.keys()
    assert headers["traceparent"].startswith("00-")


async def test_request_that_fails_early_ends_for_all_who_look_on(made: list[Record]) -> None:
    observed = begin(made, Traces(TracerProvider()))
    assert len(observed.onlookers) == 2
    with pytest.raises(ValueError, match="wrong"):
        async with until_asked(observed.onlookers):
            raise ValueError("wrong")
    assert made[0].status == 500


async def test_records_of_the_last_moment_are_sent_when_it_ends() -> None:
    keeper = Keeper()
    outbox, records = Outbox(keeper), Records("r1")
    records.on_finished.append(outbox.add)
    observing = Observing(records, ACTIVITY, outbox)
    observing.begin(REQUEST, CHAT).onlookers[0].ended(200)
    await observing.stop()
    assert len(keeper.rows) == 1
