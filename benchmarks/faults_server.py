"""The server that things happen to, and its processes by what they are."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import psutil

from benchmarks.faults_load import Streams
from benchmarks.roles import REPLICA, role_of
from benchmarks.servers import CACHE, SOURCE, Urls, ours

NAME = "faults"
AIMED, OTHER, REAL, FAST, FAR, VLLM = "aimed", "other", "real", "fast", "far", "vllm"
USUAL = (AIMED, OTHER, REAL, FAST, FAR)
PACE_MS = 50
STREAMS = (Streams(AIMED, 2, 40), Streams(OTHER, 2, 40), Streams(REAL, 1, 6), Streams(VLLM, 1, 6))
INGRESS_REPLICAS = 2
LOOK_S = 0.1
KV_CACHE_BYTES = 2**28
WHOLE_S = 90.0  # until a server is itself again


def application(data_dir: Path, names: Sequence[str] = USUAL) -> dict[str, Any]:
    """names: of its models."""
    echo = {"engine": "echo", "engine_args": {"interval_ms": PACE_MS}}
    models: list[dict[str, Any]] = [
        {"name": AIMED, **echo, "auto_start": True},
        {"name": OTHER, **echo, "auto_start": True},
        {"name": REAL, "engine": "mlx", "source": SOURCE, "auto_start": True},
        {"name": FAST, "engine": "echo", "auto_start": True},
        {"name": FAR, **echo, "placements": [{"resources": {FAR: 1}}, {}]},
        {
            **{"name": VLLM, "engine": "vllm", "source": SOURCE, "auto_start": True},
            "engine_args": {"max_model_len": 512, "enforce_eager": True, "kv_cache_memory_bytes": KV_CACHE_BYTES},
        },
    ]
    return ours(
        NAME,
        "/",
        [model for model in models if model["name"] in names],
        cache_dir=str(CACHE),
        data_dir=str(data_dir),
        ingress_replicas=INGRESS_REPLICAS,
        allow_without_keys=True,
    )


class Family(Protocol):
    """As `benchmarks.servers.Child`."""

    def family(self) -> list[psutil.Process]: ...
    def wait_ready(self, urls: Urls) -> None: ...


@dataclass(frozen=True)
class World:
    """data: the keeper's folder."""

    child: Family
    url: str
    folder: Path
    data: Path
    models: Sequence[str] = (AIMED, OTHER, REAL)

    @property
    def streams(self) -> list[Streams]:
        return [streams for streams in STREAMS if streams.model in self.models]

    def processes(self, role: str) -> list[psutil.Process]:
        """By `benchmarks.roles`' names; the oldest first."""
        return self._those(lambda line: role_of(line, NAME) == role)

    def replica(self, model: str) -> psutil.Process:
        """The only one of a model."""
        (found,) = self._those(lambda line: line.startswith(f"{REPLICA}:{NAME}:{model}"))
        return found

    def engine(self) -> psutil.Process:
        """The process that computes, which vLLM starts beside its server."""
        (found,) = self._those(lambda line: line.startswith("VLLM::EngineCore"))
        return found

    def haproxy(self) -> psutil.Process:
        """The program itself, not Serve's actor that looks after it."""
        return self._those(lambda line: line.split(" ")[0].endswith("/haproxy"))[-1]

    def wait_whole(self) -> None:
        """Returns once every process is there and every model answers."""
        deadline = time.monotonic() + WHOLE_S
        while not (len(self.processes("ingress")) == INGRESS_REPLICAS and self.processes("keeper")):
            if time.monotonic() > deadline:
                raise RuntimeError(f"the server did not come back whole; see {self.folder}")
            time.sleep(LOOK_S)
        self.child.wait_ready(dict.fromkeys(self.models, self.url))

    def _those(self, fits: Callable[[str], bool]) -> list[psutil.Process]:
        found = []
        for process in self.child.family():
            with suppress(psutil.Error):
                if fits(" ".join(process.cmdline())):
                    found.append((process.create_time(), process.pid, process))
        return [process for *_, process in sorted(found)]
