"""A real Prometheus that scrapes a server. Needs Debian's `prometheus`."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from benchmarks.load import HOST, KEY
from benchmarks.servers import Child, free_port

SCRAPE_S = 2


@dataclass(frozen=True)
class Line:
    """values: of each moment; NaN where there is none that counts."""

    labels: dict[str, str]
    times: list[float]
    values: list[float]


class Prometheus:
    def __init__(self, url: str) -> None:
        self._url = url

    def lines(self, query: str, began: float, ended: float, step_s: float) -> list[Line]:
        """Raises: httpx.HTTPError."""
        parameters: dict[str, Any] = {"query": query, "start": began, "end": ended, "step": step_s}
        answer = httpx.get(f"{self._url}/api/v1/query_range", params=parameters, timeout=60).raise_for_status()
        return [
            Line(one["metric"], [at for at, _ in one["values"]], [float(value) for _, value in one["values"]])
            for one in answer.json()["data"]["result"]
        ]

    def is_up(self) -> bool:
        try:
            return httpx.get(f"{self._url}/-/ready").status_code == 200
        except httpx.HTTPError:
            return False


@contextmanager
def prometheus(folder: Path, scraped: str) -> Iterator[Prometheus]:
    """scraped: the server's URL. Raises: FileNotFoundError, where it is not installed."""
    command = shutil.which("prometheus")
    if command is None:
        raise FileNotFoundError("Prometheus is not installed: apt-get install prometheus")
    job = {
        "job_name": "llm-manager",
        "authorization": {"credentials": KEY},
        "static_configs": [{"targets": [scraped.removeprefix("http://")]}],
    }
    config = folder / "prometheus.yml"
    config.write_text(yaml.safe_dump({"global": {"scrape_interval": f"{SCRAPE_S}s"}, "scrape_configs": [job]}))
    address = f"{HOST}:{free_port()}"
    options = [f"--config.file={config}", f"--storage.tsdb.path={folder}/prometheus", f"--web.listen-address={address}"]
    child = Child(folder / "prometheus.log", [command, *options])
    try:
        made = Prometheus(f"http://{address}")
        child.wait_for(made.is_up, "Prometheus does not come up")
        yield made
    finally:
        child.stop()
