"""What the README shows runs as it stands; only the port is another one here."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.e2e import javascript
from tests.e2e.serving import Serving, wait_for
from tests.readme import blocks

APPLICATIONS = ()

MODULES = [block for block in blocks("js") if block.startswith("import")]


@pytest.fixture(scope="module", autouse=True)
def _up(serving: Serving) -> None:
    wait_for("the model is up", lambda: serving.statuses()["smollm2-135m"] == "running", 180)


def here(serving: Serving, text: str) -> str:
    assert "http://localhost:8000" in text
    return text.replace("http://localhost:8000", serving.url)


def run(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


def test_curl_says_paris(serving: Serving) -> None:
    (curl,) = [block for block in blocks("sh") if block.startswith("curl")]
    assert "Paris" in run(["bash", "-c", here(serving, curl)])


@pytest.mark.parametrize("example", blocks("python"), ids=lambda text: text.split()[1])
def test_python_says_paris(serving: Serving, example: str) -> None:
    assert "Paris" in run([sys.executable, "-c", here(serving, example)])


@pytest.mark.parametrize("example", MODULES, ids=lambda text: text.splitlines()[0].split('"')[1])
def test_javascript_says_paris(serving: Serving, example: str) -> None:
    assert "Paris" in javascript.run(here(serving, example))
