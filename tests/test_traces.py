from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from starlette.requests import Request

from deployments.usage.settings import TraceSettings
from ingress import traces
from ingress.traces import Trace, Traces

REPLICA = SimpleNamespace(url="http://x", headers={})
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def request(**headers: str) -> Request:
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "method": "POST", "path": "/x", "headers": raw})


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def made(exporter: InMemorySpanExporter) -> Traces:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return Traces(provider)


def answered(trace: Trace, status: int = 200) -> None:
    trace.of("a")
    trace.waits()
    trace.lent()
    trace.chunk(REPLICA, b"data: 1\n\n", more=True)
    trace.chunk(REPLICA, b"data: 2\n\n", more=False)
    trace.ended(status)


def by_name(exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    return {span.name: span for span in exporter.get_finished_spans()}


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def test_request_is_a_span_over_its_wait_and_its_engine(made: Traces, exporter: InMemorySpanExporter) -> None:
    answered(made.begin(request(), "/v1/completions"))
    spans = by_name(exporter)
    whole = spans.pop("POST /v1/completions")
    assert set(spans) == {"wait for a replica", "engine"}
    assert whole.context is not None
    assert [span.parent and span.parent.span_id for span in spans.values()] == [whole.context.span_id] * 2
    assert [event.name for event in whole.events] == ["first byte"]
    assert attributes(whole)["gen_ai.request.model"] == "a"
    assert attributes(whole)["http.response.status_code"] == 200
    assert whole.status.is_unset


def test_trace_of_the_client_goes_on_to_the_engine(made: Traces, exporter: InMemorySpanExporter) -> None:
    trace = made.begin(request(traceparent=PARENT), "/v1/completions")
    answered(trace)
    whole = by_name(exporter)["POST /v1/completions"]
    assert whole.context is not None
    assert whole.parent is not None
    assert f"{whole.parent.trace_id:032x}-{whole.parent.span_id:016x}" == PARENT[3:-3]
    assert trace.headers["traceparent"] == f"{PARENT[:35]}-{whole.context.span_id:016x}-01"


def test_failure_ends_every_span(made: Traces, exporter: InMemorySpanExporter) -> None:
    trace = made.begin(request(), "/v1/completions")
    trace.waits()
    trace.ended(503)
    spans = by_name(exporter)
    assert set(spans) == {"POST /v1/completions", "wait for a replica"}
    assert not spans["POST /v1/completions"].status.is_ok
    assert attributes(spans["POST /v1/completions"])["http.response.status_code"] == 503


async def test_answer_in_one_piece_has_its_first_byte_too(made: Traces, exporter: InMemorySpanExporter) -> None:
    trace = made.begin(request(), "/v1/completions")
    await trace.whole(REPLICA, b"{}")
    trace.ended(200)
    assert [event.name for event in by_name(exporter)["POST /v1/completions"].events] == ["first byte"]


@pytest.mark.parametrize(
    ("endpoint", "environment", "on"),
    [
        (None, {}, False),
        (None, {"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
        (None, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, True),
        (None, {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://x"}, True),
        ("http://x", {}, True),
    ],
)
def test_traces_are_made_where_there_is_somewhere_to_send_them(
    endpoint: str | None, environment: dict[str, str], on: bool
) -> None:
    assert traces.wanted(TraceSettings(otlp_endpoint=endpoint), environment) is on


def test_what_sends_traces_is_not_imported_before_it_is_wanted() -> None:
    parts = ("opentelemetry.sdk", "opentelemetry.exporter")
    code = f"import sys, ingress.traces; sys.exit(any(name.startswith({parts}) for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@contextmanager
def receiver(got: list[tuple[str, bytes]]) -> Iterator[str]:
    """Takes OTLP over HTTP."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append((self.path, self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


async def test_spans_reach_a_receiver_over_http() -> None:
    got: list[tuple[str, bytes]] = []
    with receiver(got) as url:
        made = traces.exporting(TraceSettings(otlp_endpoint=url))
        answered(made.begin(request(), "/v1/completions"))
        await asyncio.to_thread(made.stop)
    names, services = set(), set()
    for path, body in got:
        assert path == "/v1/traces"
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            services |= {a.value.string_value for a in resource.resource.attributes if a.key == "service.name"}
            names |= {span.name for scope in resource.scope_spans for span in scope.spans}
    assert names == {"POST /v1/completions", "wait for a replica", "engine"}
    assert services == {"llm-manager"}


def test_no_request_is_traced_at_a_ratio_of_nought() -> None:
    made = traces.exporting(TraceSettings(otlp_endpoint="http://127.0.0.1:1", sample_ratio=0))
    own, clients = (made.begin(one, "/v1/completions") for one in (request(), request(traceparent=PARENT)))
    sampled = [int(trace.headers["traceparent"][-2:], 16) & 1 for trace in (own, clients)]
    assert sampled == [0, 1]
    made.stop()
