"""What the commands that start servers have in common: options, a folder for logs, the exit status."""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Result:
    """problems: a line for each answer that was not what it should be."""

    tables: str
    problems: Sequence[str]


def parser(command: str, description: str | None, rounds: int | None = None) -> argparse.ArgumentParser:
    """rounds: the default; None if the command has no rounds."""
    made = argparse.ArgumentParser(prog=f"python -m benchmarks.{command}", description=description)
    made.add_argument("--quick", action="store_true", help="a short check: less of everything")
    if rounds is not None:
        made.add_argument("--rounds", type=int, help=f"default {rounds}, with --quick 1")
        made.set_defaults(default_rounds=rounds)
    made.add_argument("--out", type=Path, help="write the tables to this file too")
    return made


def run(
    parser: argparse.ArgumentParser, arguments: list[str], measured: Callable[[argparse.Namespace, Path], Result]
) -> int:
    """measured: from the options and a folder for the servers' logs, which stays if anything was wrong."""
    options = parser.parse_args(arguments)
    if "rounds" in options:
        options.rounds = options.rounds or (1 if options.quick else options.default_rounds)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the servers are ended

    folder = Path(tempfile.mkdtemp(prefix="llm-manager-bench-"))
    try:
        result = measured(options, folder)
    except BaseException:
        say(f"failed; the servers' logs are in {folder}")
        raise
    print(result.tables)
    if options.out:
        options.out.write_text(result.tables)
    for problem in result.problems:
        say(problem)
    if result.problems:
        say(f"the servers' logs are in {folder}")
        return 1
    shutil.rmtree(folder)
    return 0


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
