"""A process that is ready before its model is known: Python up, Serve and the engine imported.

Ray gives a new replica an idle worker process, if there is one with the same runtime environment that has never had
anything to do. So a replica that has come up lets Ray start such a process, by a task that it cancels before it runs;
the environment names `import_NAME` here, which Ray calls when the process starts. (The public
`worker_process_setup_hook` is for whole jobs; the variable that carries it works for a single actor.) Where any of this
does not work, a replica starts in a new process, a second or two later.
"""

from __future__ import annotations

import gc
import importlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any

import psutil

logger = logging.getLogger("ray.serve.llm_manager")

HOOK = "__RAY_WORKER_PROCESS_SETUP_HOOK_ENV_VAR"
SOFT_LIMIT = "RAY_num_workers_soft_limit"
"""In the environment of `ray start` or `serve run`: processes that Ray keeps. By itself it keeps as many idle ones as
there are free CPUs, and on a small machine that is none."""
WORKERS = "64"
ENOUGH_CPUS = 4

_START_S = 0.3  # Ray has asked for the process by then, and it is not up yet
_TRIES = 2
_LOOK_S = 0.5
_NEW_S = 15.0  # within which a new process has imported everything, and its replica has begun
_BUSY_S = 10.0  # of a replica that is never without a request
_COMMON = ("ray.serve._private.replica", "deployments.model", "uvicorn", "starlette.responses")
_ENGINES = {
    "echo": ("deployments.engines.echo",),
    "mlx": (
        "transformers:AutoTokenizer",  # transformers brings its parts when they are first asked for
        "transformers:PreTrainedTokenizerFast",
        "mlx_lm.models.llama",
        "deployments.engines.mlx.generator",
        "deployments.engines.mlx.app",
    ),
    "vllm": (
        "transformers:AutoTokenizer",
        "transformers:PreTrainedTokenizerFast",
        "deployments.engines.vllm.engine",
        "deployments.engines.vllm.parser",
        "deployments.engines.vllm.internals",
    ),
}


def environment(engine: str) -> dict[str, str]:
    """`env_vars` of a replica's runtime environment."""
    return {HOOK: f"deployments.warm.import_{engine}"}


def import_echo() -> None:
    _import("echo")


def import_mlx() -> None:
    _import("mlx")


def import_vllm() -> None:
    _import("vllm")


def _import(engine: str) -> None:
    """Never raises: Ray would end the process, and every other one that it starts for the replica."""
    for name in (*_COMMON, *_ENGINES[engine]):
        try:
            module, _, attribute = name.partition(":")
            imported = importlib.import_module(module)
            if attribute:
                getattr(imported, attribute)
        except Exception as error:
            logger.warning(f"{name} could not be imported ahead: {error!r}")
    gc.freeze()  # what was imported stays: collections need not look at it


def refill(unfinished: Callable[[], int], began_at: float) -> None:
    """Lets Ray start a process for the next replica like this one, unless one is there. Returns at once.

    unfinished: requests of this replica. It was started for one, whose first token comes before the next process.
    began_at: when the replica's constructor began, in seconds since 1970.
    """
    if HOOK in os.environ:
        threading.Thread(target=_refill, args=(unfinished, began_at), name="warm-process", daemon=True).start()


def _refill(unfinished: Callable[[], int], began_at: float) -> None:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    patience = time.monotonic() + _BUSY_S
    while True:
        time.sleep(_LOOK_S)
        if unfinished() == 0 or time.monotonic() > patience:
            break
    try:
        node = ray.get_runtime_context().get_node_id()
        for process in _useless(psutil.Process().create_time(), began_at, _idle()):
            process.terminate()
        if _idle() or not _keeps_idle_processes(node, ray.nodes()):
            return
        here = NodeAffinitySchedulingStrategy(node, soft=False)
        # It inherits the runtime environment. A process that has run it would be of no use: it ends.
        task = ray.remote(num_cpus=0, max_calls=1, max_retries=0)(_nothing).options(scheduling_strategy=here)
        for _ in range(_TRIES):
            running = task.remote()
            time.sleep(_START_S)
            ray.cancel(running)
            try:
                ray.get(running)
            except ray.exceptions.TaskCancelledError:
                return
    except Exception as error:
        logger.warning(f"No process could be made ready for the next model: {error!r}")


def _keeps_idle_processes(node: str, nodes: Iterable[Mapping[str, Any]]) -> bool:
    """Whether Ray leaves an idle process alone on this node."""
    cpus = sum(n["Resources"].get("CPU", 0) for n in nodes if n["NodeID"] == node)
    return SOFT_LIMIT in os.environ or cpus >= ENOUGH_CPUS


def _nothing() -> None:
    pass


def _idle() -> list[psutil.Process]:
    """This node's idle processes with this one's environment: its raylet has started them as it has this one. (Another
    node, or another Ray, may be on the same machine.)"""
    found = []
    for process in psutil.Process(os.getppid()).children():
        with suppress(psutil.Error):
            idle = "".join(process.cmdline()[:1]).startswith("ray::IDLE")
            if idle and process.environ().get(HOOK) == os.environ[HOOK]:
                found.append(process)
    return found


def _useless(created_at: float, began_at: float, idle: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Idle processes that Ray had long before it made a new one for this replica, and so gives to nobody: a task that
    is cancelled while it begins leaves such ones."""
    if began_at - created_at > _NEW_S:
        return []  # this one was ready before
    return [process for process in idle if process.create_time() < created_at - _NEW_S]
