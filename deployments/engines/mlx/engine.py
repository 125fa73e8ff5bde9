"""A model in MLX format as an `Engine`. Imports mlx and mlx-lm, which take seconds, only when it starts."""

from __future__ import annotations

import asyncio
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.types import ASGIApp

from deployments.engines import EngineSpec
from deployments.engines.mlx.args import MLXArgs
from deployments.errors import EngineFailed

if TYPE_CHECKING:
    from deployments.engines.mlx.generator import Generator

_CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx")
_DEFAULT_CONTEXT = 32768


class MLXEngine:
    """generator: None until started."""

    def __init__(self, spec: EngineSpec) -> None:
        if spec.folder is None:
            raise ValueError("An mlx model needs a folder with its weights.")
        self._names = spec.names
        self._folder: Path = spec.folder
        self._args = MLXArgs.model_validate(dict(spec.args))
        self._app: ASGIApp | None = None
        self.generator: Generator | None = None

    @property
    def app(self) -> ASGIApp:
        if self._app is None:
            raise RuntimeError("The engine is not started.")
        return self._app

    @property
    def context_length(self) -> int | None:
        return self.generator.context_length if self.generator else None

    def device_mb(self) -> float:
        return self.generator.device_mb if self.generator else 0

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        config = await asyncio.to_thread(_config, self._folder)
        generator = await asyncio.to_thread(self._begin_load, config, loop)
        await generator.loaded
        self._app = await asyncio.to_thread(self._build_app, config, generator)

    async def check_health(self) -> None:
        if self.generator is None:
            raise EngineFailed("The engine is not started.")
        self.generator.check()

    async def stop(self) -> None:
        if self.generator is not None:
            await self.generator.close()

    def _begin_load(self, config: dict[str, Any], loop: asyncio.AbstractEventLoop) -> Generator:
        from deployments.engines.mlx.generator import Generator

        length = self._args.context_length or _first(config, _CONTEXT_KEYS) or _DEFAULT_CONTEXT
        # Kept from here on, so that a start that is cancelled leaves a thread that `stop` can end.
        self.generator = Generator(self._folder, self._args, length, loop)
        return self.generator

    def _build_app(self, config: dict[str, Any], generator: Generator) -> ASGIApp:
        from mlx_lm.server import get_system_fingerprint

        from deployments.engines.mlx.app import build_app
        from deployments.engines.mlx.model import Model
        from deployments.engines.mlx.vocabulary import Vocabulary

        tokens = len(generator.tokenizer)
        fingerprint = hashlib.sha256(get_system_fingerprint().encode()).hexdigest()[:10]
        model = Model(
            names=self._names,
            args=self._args,
            generator=generator,
            vocabulary=Vocabulary(generator.tokenizer),
            vocabulary_size=min(tokens, _first(config, ("vocab_size",)) or tokens),
            fingerprint=f"fp_{fingerprint}",
        )
        return build_app(model)


def _config(folder: Path) -> dict[str, Any]:
    """config.json, with the keys of a language model that is a part of a larger one."""
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return {**config, **(config.get("text_config") or {})}


def _first(config: dict[str, Any], keys: tuple[str, ...]) -> int | None:
    return next((config[key] for key in keys if isinstance(config.get(key), int)), None)
