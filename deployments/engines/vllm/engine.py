"""A model on vLLM as an `Engine`. Imports vLLM, which takes seconds, only when it starts."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import tempfile
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

import psutil
from starlette.applications import Starlette
from starlette.types import ASGIApp

from deployments.engines import EngineSpec
from deployments.engines.vllm import device
from deployments.errors import EngineFailed, InvalidRequest
from deployments.processes import outlived

_SHUTDOWN_S = 2.0
_END_LOAD_S = 5.0
_LOOK_S = 0.05
_KILL_S = 2.0


class VLLMEngine:
    """The engine's own processes are children of this one; its app runs here."""

    def __init__(self, spec: EngineSpec) -> None:
        if spec.folder is None:
            raise ValueError("A vllm model needs a folder with its weights.")
        self._spec = spec
        self._folder: Path = spec.folder
        self._app: Starlette | None = None
        self._engine: Any = None
        self._loading: asyncio.Future[Any] | None = None
        self._lifespan = contextlib.AsyncExitStack()
        self._adapters: list[str] = []  # what has a place in the engine; a name twice while its old one still answers
        self._links = 0
        self._others: set[Any] = set()
        self._family: set[psutil.Process] = set()
        self._stopped = False

    @property
    def app(self) -> ASGIApp:
        if self._app is None:
            raise RuntimeError("The engine is not started.")
        return self._app

    @property
    def context_length(self) -> int | None:
        return int(self._engine.model_config.max_model_len) if self._engine else None

    def device_mb(self) -> float:
        """A GPU's memory is none of the machine's, and what its processes have of that is counted as theirs."""
        return 0

    async def start(self) -> None:
        self._others = set(multiprocessing.active_children())
        # Shielded: a start that is cancelled leaves a thread, and `stop` ends what it waits for.
        self._loading = asyncio.ensure_future(asyncio.to_thread(self._load))
        args, self._engine = await asyncio.shield(self._loading)
        self._family = await asyncio.to_thread(self._living)

        from deployments.engines.vllm import internals

        self._app = await internals.make_app(args, self._engine)
        folder = await asyncio.to_thread(tempfile.TemporaryDirectory, prefix="llm-manager-adapters-")
        self._links_folder = Path(self._lifespan.enter_context(folder))
        # What it does there for itself, such as to log its figures, it may do here too.
        await self._lifespan.enter_async_context(self._app.router.lifespan_context(self._app))

    def _load(self) -> tuple[Namespace, Any]:
        on_cpu = device.on_cpu(self._spec.device)
        device.set_environment(on_cpu)

        from deployments.engines.vllm import internals, parser

        args = parser.parse({**self._given(on_cpu), **self._spec.args}, self._spec.mode)
        args.model = str(self._folder)
        args.served_model_name = list(self._spec.names)
        if self._stopped:
            raise EngineFailed("The engine was stopped while it started.")
        return args, internals.start_engine(args)

    def _given(self, on_cpu: bool) -> dict[str, Any]:
        given = device.cpu_defaults(self._spec.args) if on_cpu else {}
        return given | device.adapter_args(self._spec.max_adapters, cpu=on_cpu)

    async def load_adapter(self, name: str, folder: Path) -> None:
        from deployments.engines.vllm import internals

        if self._app is None or len(self._adapters) >= self._spec.max_adapters:
            raise InvalidRequest(f"This model has at most {self._spec.max_adapters} adapters at the same time.")
        # vLLM keeps what it computed with an adapter under the adapter's path: another path for each load.
        self._links += 1
        link = self._links_folder / str(self._links)
        link.symlink_to(folder, target_is_directory=True)
        self._adapters.append(name)
        try:
            await internals.load_adapter(self._app, self._engine, name, link)
        except BaseException:
            self._adapters.remove(name)
            raise

    async def unload_adapter(self, name: str) -> None:
        """Returns when the requests that name it have been answered."""
        # Shielded: who stops waiting for it does not stop it.
        await asyncio.shield(asyncio.ensure_future(self._unload_adapter(name)))

    async def _unload_adapter(self, name: str) -> None:
        from deployments.engines.vllm import internals

        if self._app is not None:
            await internals.unload_adapter(self._app, self._engine, name)
            self._adapters.remove(name)

    async def check_health(self) -> None:
        if self._engine is None or self._engine.errored:
            raise EngineFailed("The engine has ended." if self._engine else "The engine is not started.")

    async def stop(self) -> None:
        self._stopped = True
        if self._loading is not None:
            await self._end_load(self._loading)
        await self._lifespan.aclose()
        if self._engine is not None:
            await asyncio.to_thread(self._shut_down)

    async def _end_load(self, loading: asyncio.Future[Any]) -> None:
        """Ends what a thread that still loads waits for: it gives up then."""
        deadline = time.monotonic() + _END_LOAD_S
        while not loading.done() and time.monotonic() < deadline:
            await asyncio.to_thread(lambda: _kill(self._living()))
            await asyncio.wait({loading}, timeout=_LOOK_S)
        if loading.done() and not loading.cancelled() and loading.exception() is None:
            _, self._engine = loading.result()

    def _shut_down(self) -> None:
        family = self._family | self._living()  # those of a process that has died are nobody's children now
        self._engine.shutdown(_SHUTDOWN_S)
        _kill(family)

    def _living(self) -> set[psutil.Process]:
        """Processes that multiprocessing has begun since the start began, and all that those have."""
        found: set[psutil.Process] = set()
        for child in set(multiprocessing.active_children()) - self._others:
            with contextlib.suppress(psutil.Error):
                process = psutil.Process(child.pid)
                found |= {process, *process.children(recursive=True)}
        return found


def _kill(processes: set[psutil.Process]) -> None:
    """Returns when they are gone, but waits for nobody who is slow to take notice of their ends."""
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.kill()
    outlived(processes, _KILL_S)
