"""An embedding model in MLX format, as an `Engine`. Imports mlx and transformers only when it starts."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.types import ASGIApp

from deployments.engines import EngineSpec
from deployments.engines.mlx.args import MLXArgs
from deployments.engines.mlx.folder import context_length, read_config, vocabulary_size
from deployments.engines.mlx.pooling import read_pooling, text_length
from deployments.errors import EngineFailed, ModelNotFound

if TYPE_CHECKING:
    from deployments.engines.mlx.embedder import Embedder
    from deployments.engines.mlx.embeddings import EmbeddingModel

_DEFAULT_CONTEXT = 512


class EmbeddingEngine:
    """embedder: None until started."""

    def __init__(self, spec: EngineSpec) -> None:
        if spec.folder is None:
            raise ValueError("An mlx model needs a folder with its weights.")
        self._names = spec.names
        self._folder: Path = spec.folder
        self._args = MLXArgs.model_validate(dict(spec.args))
        self._app: ASGIApp | None = None
        self._context_length: int | None = None
        self.embedder: Embedder | None = None

    @property
    def app(self) -> ASGIApp:
        if self._app is None:
            raise RuntimeError("The engine is not started.")
        return self._app

    @property
    def context_length(self) -> int | None:
        return self._context_length

    def device_mb(self) -> float:
        if self.embedder is None:
            return 0
        from deployments.engines.mlx import metal

        return metal.device_mb()

    async def start(self) -> None:
        config = await asyncio.to_thread(read_config, self._folder)
        # Kept from here on, so that a start that is cancelled leaves a thread that `stop` can end.
        embedder = self.embedder = await asyncio.to_thread(self._begin_load)
        await embedder.loaded()
        model = await asyncio.to_thread(self._model, config, embedder)
        from deployments.engines.mlx.embeddings import build_app

        self._context_length = model.context_length
        self._app = build_app(model)

    async def load_adapter(self, name: str, folder: Path) -> None:
        raise ValueError("Embedding models are served without adapters.")

    async def unload_adapter(self, name: str) -> None:
        raise ModelNotFound(f"No adapter named '{name}' is loaded.")

    async def check_health(self) -> None:
        if self.embedder is None:
            raise EngineFailed("The engine is not started.")
        self.embedder.check()

    async def stop(self) -> None:
        if self.embedder is not None:
            await self.embedder.close()

    def _begin_load(self) -> Embedder:
        from deployments.engines.mlx.embedder import Embedder

        return Embedder(self._folder, batch_tokens=self._args.prefill_step_size)

    def _model(self, config: dict[str, Any], embedder: Embedder) -> EmbeddingModel:
        from transformers import AutoTokenizer

        from deployments.engines.mlx.embeddings import EmbeddingModel

        tokenizer = AutoTokenizer.from_pretrained(self._folder, trust_remote_code=self._args.trust_remote_code)
        # Settings of truncation and padding, which a tokenizer's file may hold, go with the first call.
        tokenizer(["a"], padding=False, truncation=False)
        positions = context_length(config) or _DEFAULT_CONTEXT
        length = self._args.context_length or text_length(self._folder) or positions
        pooling = read_pooling(self._folder)
        return EmbeddingModel(
            names=self._names,
            embedder=embedder,
            tokenizer=tokenizer,
            context_length=min(length, positions),  # MLX does not notice a position that is not there
            vocabulary_size=vocabulary_size(config, len(tokenizer)),
            normalize=pooling is None or pooling.normalize,
            matryoshka=config.get("matryoshka_dimensions") or bool(config.get("is_matryoshka")),
        )
