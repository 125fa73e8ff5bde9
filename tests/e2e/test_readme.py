"""What the README shows runs as it stands; only the port is another one here."""

from __future__ import annotations

import re
import subprocess
import sys

from tests.e2e.serving import ROOT, Serving, wait_for

APPLICATIONS = ()

README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def run(serving: Serving, command: list[str], text: str) -> str:
    wait_for("the model is up", lambda: serving.statuses()["smollm2-135m"] == "running", 180)
    text = text.replace("http://localhost:8000", serving.url)
    assert serving.url in text
    return subprocess.run([*command, text], capture_output=True, text=True, check=True, timeout=120).stdout


def test_curl_says_paris(serving: Serving) -> None:
    (curl,) = [block for block in blocks("sh") if block.startswith("curl")]
    assert "Paris" in run(serving, ["bash", "-c"], curl)


def test_sdk_example_says_paris(serving: Serving) -> None:
    (example,) = blocks("python")
    assert "Paris" in run(serving, [sys.executable, "-c"], example)
