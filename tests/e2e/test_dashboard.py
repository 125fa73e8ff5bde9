"""A real Prometheus scrapes a real run, and every query of the dashboard has an answer. Needs Debian's `prometheus`."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.e2e.serving import Serving, free_port, wait_for
from tests.metrics.test_dashboard import TARGETS

APPLICATIONS = ("usage",)

UNCOUNTED = ("cached_tokens_total", "cache_hits_total")  # the echo engine has no cache
ANSWERED_S = 90.0
VARIABLES = {"$__rate_interval": "1m", "$application": "usage", "$model": ".*"}


@contextlib.contextmanager
def prometheus(folder: Path, serving: Serving) -> Iterator[str]:
    """Its URL, once it is up."""
    command = shutil.which("prometheus")
    if command is None:
        pytest.skip("Prometheus is not installed: apt-get install prometheus")
    targets = [serving.url.removeprefix("http://")]
    job = {"job_name": "llm", "metrics_path": "/usage/metrics", "static_configs": [{"targets": targets}]}
    config = folder / "prometheus.yml"
    config.write_text(yaml.safe_dump({"global": {"scrape_interval": "1s"}, "scrape_configs": [job]}))
    address = f"127.0.0.1:{free_port()}"
    options = (f"--config.file={config}", f"--storage.tsdb.path={folder}/data", f"--web.listen-address={address}")
    with (folder / "prometheus.log").open("wb") as log, subprocess.Popen([command, *options], stderr=log) as child:
        try:
            wait_for("Prometheus", lambda: is_up(f"http://{address}"), 30)
            yield f"http://{address}"
        finally:
            child.terminate()


def is_up(url: str) -> bool:
    try:
        return httpx.get(f"{url}/-/ready").status_code == 200
    except httpx.HTTPError:
        return False


def query(url: str, text: str) -> list[Any]:
    for name, value in VARIABLES.items():
        text = text.replace(name, value)
    answer = httpx.get(f"{url}/api/v1/query", params={"query": text}).json()
    assert answer["status"] == "success", (text, answer)
    found: list[Any] = answer["data"]["result"]
    return found


def test_every_query_of_the_dashboard_has_an_answer(serving: Serving, tmp_path: Path) -> None:
    queries = {target["expr"] for target in TARGETS if not any(name in target["expr"] for name in UNCOUNTED)}
    with prometheus(tmp_path, serving) as url, httpx.Client(base_url=serving.url + "/usage", timeout=60) as client:
        messages = [{"role": "user", "content": "one two three"}]

        def all_answer() -> bool:
            for model, fields in (
                ("org/a", {"max_tokens": 4}),
                ("slow", {"max_tokens": 4}),
                ("org/a", {"messages": []}),
            ):
                body = {"model": model, "messages": messages, "stream": True, **fields}
                client.post("/v1/chat/completions", json=body)
            client.post("/api/models/slow/stop")  # its next request loads it again
            return not unanswered()

        def unanswered() -> set[str]:
            return {one for one in queries if not query(url, one)}

        with contextlib.suppress(AssertionError):
            wait_for("answers", all_answer, ANSWERED_S)
        assert unanswered() == set()
