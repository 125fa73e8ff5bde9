"""Runs JavaScript with the npm packages of tests/clients, which are installed there once."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
from collections.abc import Mapping

from tests.e2e.serving import ROOT

FOLDER = ROOT / "tests" / "clients"

_RESULT = re.compile(r"^(ok|not ok) \d+ - (.+)$", re.MULTILINE)


def claims(file: str) -> list[str]:
    """What the file's tests are called."""
    return re.findall(r'^test\("(.+)", async', (FOLDER / file).read_text(), re.MULTILINE)


def run_tests(file: str, environment: Mapping[str, str]) -> tuple[dict[str, bool], str]:
    """Which of the file's tests passed, and all that it said."""
    told = _node(["--test-reporter=tap", file], "", environment)
    return {claim: result == "ok" for result, claim in _RESULT.findall(told.stdout)}, told.stdout + told.stderr


def run(code: str) -> str:
    """What a module prints. Raises: AssertionError, if it failed."""
    told = _node(["--input-type=module", "-"], code)
    assert told.returncode == 0, told.stderr
    return told.stdout


def _node(
    arguments: list[str], given: str, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    install()
    return subprocess.run(
        ["node", *arguments],
        input=given,
        cwd=FOLDER,
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=280,
    )


@functools.cache
def install() -> None:
    """As the lock file says, unless that has been done."""
    for command in ("node", "npm"):
        assert shutil.which(command), f"the clients in JavaScript need {command}: install Node.js 20 or later"
    wanted, there = FOLDER / "package-lock.json", FOLDER / "node_modules" / ".package-lock.json"
    if not there.exists() or there.stat().st_mtime < wanted.stat().st_mtime:
        done = subprocess.run(["npm", "ci"], cwd=FOLDER, capture_output=True, text=True, timeout=250)
        assert done.returncode == 0, done.stderr
