"""The OpenAI routes of one loaded model that generates."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from deployments.engines.mlx import chat, completions
from deployments.engines.mlx.model import Model
from deployments.engines.mlx.protocol import ChatRequest, CompletionRequest
from deployments.engines.mlx.responses import EventStream
from deployments.engines.mlx.routing import application, guarded
from deployments.engines.mlx.serving import Plan, events, whole
from deployments.engines.mlx.validation import parse
from deployments.hangup import unless_gone


def build_app(model: Model) -> Starlette:
    @guarded
    async def chat_completions(request: Request) -> Response:
        return await _answer(request, await chat.plan(parse(ChatRequest, await request.body()), model))

    @guarded
    async def text_completions(request: Request) -> Response:
        body = parse(CompletionRequest, await request.body())
        return await _answer(request, await completions.plan(body, model))

    async def _answer(request: Request, plan: Plan) -> Response:
        if not plan.stream:
            return JSONResponse(await unless_gone(request.receive, whole(plan)))
        stream = events(plan)
        return EventStream(await unless_gone(request.receive, anext(stream)), stream)  # type: ignore[arg-type]

    async def health(_: Request) -> Response:
        model.check_health()
        return JSONResponse({"status": "ok"})

    routes = [
        Route("/v1/chat/completions", chat_completions, methods=["POST"]),
        Route("/v1/completions", text_completions, methods=["POST"]),
        Route("/health", health, methods=["GET"]),
    ]
    return application(routes)
