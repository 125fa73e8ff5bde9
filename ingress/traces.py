"""OpenTelemetry's spans of a request: all of it, its waits for replicas, and what it asks engines.

What sends traces is not imported unless somebody wants them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from starlette.requests import Request

from deployments.usage.settings import TraceSettings
from ingress.onlooker import Onlooker, Replica
from ingress.request_id import request_id

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span, SpanKind, Tracer

ENVIRONMENT = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
SERVICE = "llm-manager"
SERVER_ERROR = 500


def wanted(settings: TraceSettings, environment: Mapping[str, str]) -> bool:
    return settings.otlp_endpoint is not None or any(environment.get(name) for name in ENVIRONMENT)


def exporting(settings: TraceSettings) -> Traces:
    """Traces that are sent over OTLP/HTTP, from a thread of their own."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

    endpoint = settings.otlp_endpoint
    provider = TracerProvider(
        resource=Resource.create({SERVICE_NAME: SERVICE}), sampler=ParentBased(TraceIdRatioBased(settings.sample_ratio))
    )
    exporter = OTLPSpanExporter() if endpoint is None else OTLPSpanExporter(f"{endpoint.rstrip('/')}/v1/traces")
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return Traces(provider)


class Traces:
    def __init__(self, provider: TracerProvider) -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = provider.get_tracer(SERVICE)
        self._propagator = TraceContextTextMapPropagator()

    def begin(self, request: Request, path: str) -> Trace:
        """A trace of the client's, if it has begun one. path: of the endpoint."""
        from opentelemetry.trace import SpanKind, set_span_in_context

        above = self._propagator.extract(dict(request.headers))
        attributes = {
            "http.request.method": request.method,
            "http.route": path,
            "request.id": request_id(request.scope),
        }
        span = self._tracer.start_span(f"{request.method} {path}", above, SpanKind.SERVER, attributes)
        headers: dict[str, str] = {}
        context = set_span_in_context(span)
        self._propagator.inject(headers, context)
        return Trace(self._tracer, span, context, headers)

    def stop(self) -> None:
        """Sends what is left; it may block for some seconds."""
        self._provider.shutdown()


class Trace(Onlooker):
    """headers: `traceparent` and `tracestate`, for the engine."""

    def __init__(self, tracer: Tracer, span: Span, context: Any, headers: Mapping[str, str]) -> None:
        self.headers = headers
        self._tracer = tracer
        self._span = span
        self._context = context
        self._step: Span | None = None
        self._begun = False

    def of(self, model: str) -> None:
        self._span.set_attribute("gen_ai.request.model", model)

    def waits(self) -> None:
        from opentelemetry.trace import SpanKind

        self._next("wait for a replica", SpanKind.INTERNAL)

    def lent(self) -> None:
        from opentelemetry.trace import SpanKind

        self._next("engine", SpanKind.CLIENT)

    async def whole(self, replica: Replica, body: bytes) -> None:
        self._first_byte()

    def chunk(self, replica: Replica, chunk: bytes, *, more: bool) -> bytes:
        if not self._begun:
            self._first_byte()
        return chunk

    def ended(self, status: int) -> None:
        from opentelemetry.trace import StatusCode

        self._end_step()
        self._span.set_attribute("http.response.status_code", status)
        if status >= SERVER_ERROR:
            self._span.set_status(StatusCode.ERROR)
        self._span.end()

    def _next(self, name: str, kind: SpanKind) -> None:
        self._end_step()
        self._step = self._tracer.start_span(name, self._context, kind)

    def _first_byte(self) -> None:
        self._begun = True
        self._span.add_event("first byte")

    def _end_step(self) -> None:
        if self._step is not None:
            self._step.end()
            self._step = None
