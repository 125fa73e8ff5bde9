"""What a model replica asks of an engine, and where to find each engine.

An engine speaks OpenAI itself: it brings an ASGI app, and the replica serves it. Modules are imported by the
replica that uses them and by nobody else, so that starting one engine never pays for another's imports.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from starlette.types import ASGIApp


@dataclass(frozen=True)
class EngineSpec:
    """What a replica hands to its engine.

    names: the public ids of the model, its name first. A request's `model` is one of them and comes back in
        the answer untouched.
    folder: the model in Hugging Face layout (`config.json`, weights, tokenizer); None for an engine without weights.
    args: the configuration's `engine_args`.
    mode: what it answers; `chat` and `completion` generate, `embedding` and `rerank` judge whole texts,
        `transcription` listens.
    device: `cpu` or `gpu` where the placement says so.
    max_adapters: LoRA adapters that are loaded at the same time, at most; 0 for a model without any.
    """

    names: tuple[str, ...]
    folder: Path | None = None
    args: Mapping[str, Any] = field(default_factory=dict)
    mode: str = "chat"
    device: str | None = None
    max_adapters: int = 0


class Engine(Protocol):
    """One loaded model. All methods run on the replica's event loop; none may block it."""

    @property
    def app(self) -> ASGIApp:
        """The engine's OpenAI app; valid after `start`."""

    @property
    def context_length(self) -> int | None:
        """Longest prompt and answer together, in tokens; valid after `start`. None: no bound."""

    def device_mb(self) -> float:
        """Memory that it takes beside its processes' own, such as Metal's. Must return at once."""

    async def start(self) -> None:
        """Loads the model and returns when it can answer.

        Raises: any exception; its text is what the operator reads as the reason.
        """

    async def load_adapter(self, name: str, folder: Path) -> None:
        """From here on requests may name the adapter as their `model`. folder: `adapter_config.json` and weights, as
        PEFT writes them.

        Raises: any exception; its text is what the client reads as the reason.
        """

    async def unload_adapter(self, name: str) -> None:
        """No request names it any more. Gives its memory back."""

    async def check_health(self) -> None:
        """Raises EngineFailed if the engine cannot answer any more. Must return at once."""

    async def stop(self) -> None:
        """Gives back threads, child processes and memory. May be called after a failed `start`."""


def create(engine: str, spec: EngineSpec) -> Engine:
    """The engine of that name ("mlx", "vllm", "echo"), not yet started."""
    if engine == "mlx":
        from deployments.engines import mlx

        return mlx.create(spec)
    if engine == "vllm":
        from deployments.engines.vllm.engine import VLLMEngine

        return VLLMEngine(spec)
    if engine == "echo":
        from deployments.engines.echo import EchoEngine

        return EchoEngine(spec)
    raise ValueError(f"no engine is named {engine!r}")
