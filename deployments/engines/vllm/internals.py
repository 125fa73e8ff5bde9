"""The names of vLLM that are no public API, each used here and nowhere else. Imports vLLM.

`vllm serve` is a command: what it is made of moves between vLLM's versions, and so vLLM's versions are pinned
(pyproject.toml, the extra `vllm`). With `parser.py`'s parser these are all:

launchers.app.build_app, launchers.api_server.app_state.init_app_state: the app that `vllm serve` serves.
AsyncLLM: the engine; its `errored` knows without a request that a process has died, its
    output_processor.request_states which adapters are being used.
app.state.openai_serving_models: the names that the app knows, adapters' too.
EngineDeadError, EngineGenerateError: vLLM's handlers of these would stop a server that is ours.
"""

from __future__ import annotations

import asyncio
import contextvars
from argparse import Namespace
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.launchers.api_server.app_state import init_app_state
from vllm.entrypoints.launchers.app import build_app
from vllm.entrypoints.launchers.cli_args import propagate_flash_late_interaction
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.entrypoints.serve.lora.protocol import LoadLoRAAdapterRequest, UnloadLoRAAdapterRequest
from vllm.reasoning import ReasoningParserManager
from vllm.tool_parsers import ToolParserManager
from vllm.usage.usage_lib import UsageContext
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

from deployments.errors import ApiError, EngineFailed, InternalError, InvalidRequest

_LOOK_S = 0.05

_asked: contextvars.ContextVar[str | None] = contextvars.ContextVar("asked", default=None)
"""The model's name in this task's request."""


def start_engine(args: Namespace) -> Any:
    """An AsyncLLM with its processes up and the model loaded. Blocks."""
    if args.tool_parser_plugin:
        ToolParserManager.import_tool_parser(args.tool_parser_plugin)
    if args.reasoning_parser_plugin:
        ReasoningParserManager.import_reasoning_parser(args.reasoning_parser_plugin)
    engine_args = AsyncEngineArgs.from_cli_args(args)
    propagate_flash_late_interaction(args, engine_args)
    return AsyncLLM.from_engine_args(engine_args, usage_context=UsageContext.OPENAI_API_SERVER)


async def make_app(args: Namespace, engine: Any) -> Starlette:
    await engine.reset_mm_cache()  # the start has filled it with pictures of its own
    tasks = await engine.get_supported_tasks()
    app: Starlette = build_app(args, tasks, engine.model_config)
    await init_app_state(engine, app.state, args, tasks)
    _answer_with_the_asked_name(app.state.openai_serving_models)
    for error in (EngineDeadError, EngineGenerateError):
        app.add_exception_handler(error, _engine_error)
    return app


async def load_adapter(app: Starlette, engine: Any, name: str, folder: Path) -> None:
    """Raises: InvalidRequest with what vLLM says."""
    models = app.state.openai_serving_models
    known = {adapter.lora_int_id for adapter in models.lora_requests.values()} | _in_use(engine)
    for stray in set(await engine.list_loras()) - known:  # a request that came while its adapter went brings it back
        await engine.remove_lora(stray)
    _raise(await models.load_lora_adapter(LoadLoRAAdapterRequest(lora_name=name, lora_path=str(folder))))


async def unload_adapter(app: Starlette, engine: Any, name: str) -> None:
    """Waits for the adapter's requests: the engine would load it again for them.

    Raises: InvalidRequest with what vLLM says.
    """
    models = app.state.openai_serving_models
    adapter = models.lora_requests.get(name)
    _raise(await models.unload_lora_adapter(UnloadLoRAAdapterRequest(lora_name=name)))
    while adapter.lora_int_id in _in_use(engine):  # noqa: ASYNC110  vLLM has no event for it
        await asyncio.sleep(_LOOK_S)
    await engine.remove_lora(adapter.lora_int_id)


def _in_use(engine: Any) -> set[int]:
    """Adapters of requests that are being answered."""
    states = engine.output_processor.request_states.values()
    return {state.lora_request.lora_int_id for state in states if state.lora_request}


def _raise(answer: ErrorResponse | str) -> None:
    if isinstance(answer, ErrorResponse):
        raise InvalidRequest(answer.error.message)


def _answer_with_the_asked_name(models: Any) -> None:
    """vLLM would answer with the first of the model's names, whichever was asked for. It looks a request's name up and
    makes its answer in one task."""
    is_base_model, model_name = models.is_base_model, models.model_name

    def look_up(name: str) -> bool:
        found: bool = is_base_model(name)
        if found:
            _asked.set(name)
        return found

    models.is_base_model = look_up
    models.model_name = lambda adapter=None: (None if adapter else _asked.get()) or model_name(adapter)


async def _engine_error(request: Request, error: Exception) -> JSONResponse:
    """vLLM's own handler would stop the server; here the replica's health does."""
    told: ApiError = InternalError("The engine could not answer this request.")
    if request.app.state.engine_client.errored:
        told = EngineFailed("The engine has ended.")
    return JSONResponse(told.body(), told.status, told.headers())
