"""A generating model in MLX format, as an `Engine`. Imports mlx and mlx-lm, which take seconds, when it starts."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.types import ASGIApp

from deployments.engines import EngineSpec
from deployments.engines.mlx.args import MLXArgs
from deployments.engines.mlx.folder import context_length, read_config, vocabulary_size
from deployments.errors import EngineFailed, ModelNotFound

if TYPE_CHECKING:
    from deployments.engines.mlx.generator import Generator

_DEFAULT_CONTEXT = 32768


class MLXEngine:
    """generator: None until started."""

    def __init__(self, spec: EngineSpec) -> None:
        if spec.folder is None:
            raise ValueError("An mlx model needs a folder with its weights.")
        self._names = spec.names
        self._folder: Path = spec.folder
        self._args = MLXArgs.model_validate(dict(spec.args))
        self._max_adapters = spec.max_adapters
        self._app: ASGIApp | None = None
        self._adapters: dict[str, Generator] = {}  # those that are loading too
        self._generators: dict[str, Generator] = {}  # what a request may name
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
        config = await asyncio.to_thread(read_config, self._folder)
        generator = await asyncio.to_thread(self._begin_load, config, loop)
        await generator.loaded
        self._generators.update(dict.fromkeys(self._names, generator))
        self._app = await asyncio.to_thread(self._build_app, config, generator)

    async def load_adapter(self, name: str, folder: Path) -> None:
        """Its own thread, batch and prompt cache, over the same weights.

        Raises: ValueError, with what is wrong with the adapter; EngineFailed.
        """
        if self.generator is None or self._app is None:
            raise EngineFailed("The engine is not started.")
        if name in self._generators or name in self._adapters:
            raise ValueError(f"The name '{name}' is taken.")
        if len(self._adapters) >= self._max_adapters:
            raise ValueError(f"This model holds at most {self._max_adapters} adapters at a time.")
        generator = self._adapters[name] = self.generator.with_adapter(folder)
        try:
            await generator.loaded
        except BaseException:
            self._adapters.pop(name, None)
            await generator.close()
            raise
        self._generators[name] = generator

    async def unload_adapter(self, name: str) -> None:
        """Raises: ModelNotFound."""
        if name not in self._adapters or name not in self._generators:
            raise ModelNotFound(f"No adapter named '{name}' is loaded.")
        del self._generators[name]
        await self._adapters.pop(name).close()

    async def check_health(self) -> None:
        if self.generator is None:
            raise EngineFailed("The engine is not started.")
        for generator in {self.generator, *self._generators.values()}:
            generator.check()

    async def stop(self) -> None:
        await asyncio.gather(*(adapter.close() for adapter in self._adapters.values()))
        if self.generator is not None:
            await self.generator.close()

    def _begin_load(self, config: dict[str, Any], loop: asyncio.AbstractEventLoop) -> Generator:
        from deployments.engines.mlx.generator import Generator

        length = self._args.context_length or context_length(config) or _DEFAULT_CONTEXT
        # Kept from here on, so that a start that is cancelled leaves a thread that `stop` can end.
        self.generator = Generator.of_folder(self._folder, self._args, length, loop)
        return self.generator

    def _build_app(self, config: dict[str, Any], generator: Generator) -> ASGIApp:
        from mlx_lm.server import get_system_fingerprint

        from deployments.engines.mlx.app import build_app
        from deployments.engines.mlx.model import Model
        from deployments.engines.mlx.vocabulary import Vocabulary

        fingerprint = hashlib.sha256(get_system_fingerprint().encode()).hexdigest()[:10]
        model = Model(
            args=self._args,
            generator=generator,
            generators=self._generators,
            vocabulary=Vocabulary(generator.tokenizer),
            vocabulary_size=vocabulary_size(config, len(generator.tokenizer)),
            fingerprint=f"fp_{fingerprint}",
        )
        return build_app(model)
