"""The console's pictures in the README: a real Serve with a real model and echo models that take turns, and Chromium.

Usage: python -m benchmarks.console [--minutes M] [--out FOLDER]

Needs Debian's `chromium`, or one that `playwright install chromium` has fetched.
"""

from __future__ import annotations

import argparse
import itertools
import random
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from benchmarks.command import say
from benchmarks.load import PATH, ROOT
from benchmarks.servers import AS_SERVED, CACHE, SOURCE, ours, serve_run
from tests.console.browser import DESKTOP, PHONE, chromium, looking

PICTURES = ROOT / "ingress" / "console" / "pictures"
MINUTES = 6.0
REAL, BROKEN = "smollm2-135m", "broken-7b"
QUESTION = "What is the capital of France?"
WAIT_MS = 180_000
PAUSE_S = (4.0, 25.0)  # between two requests to one model


def application(folder: Path) -> dict[str, Any]:
    empty = folder / "no-weights"
    empty.mkdir()
    (empty / "config.json").write_text('{"model_type": "llama"}')

    def echo(name: str, load_s: float, interval_ms: float, **more: Any) -> dict[str, Any]:
        args = {"load_seconds": load_s, "interval_ms": interval_ms, "tokens": 160}
        return {"name": name, "engine": "echo", "engine_args": args, "idle_timeout_s": 60, **more}

    models = [
        {"name": REAL, "source": SOURCE, "aliases": ["gpt-4o-mini"], "engine_args": {"max_tokens": 64}},
        echo("echo-large", 6, 40),
        echo("echo-medium", 3, 25),
        echo("echo-small", 1, 15, pinned=True),
        {"name": BROKEN, "engine": "mlx", "source": str(empty)},
        {"name": "echo-embed", "engine": "echo", "mode": "embedding"},
    ]
    return ours("console", "/", models, most_up=3, data_dir=str(folder / "data"), cache_dir=str(CACHE))


@contextmanager
def traffic(url: str) -> Iterator[None]:
    """Each echo model is asked now and then, by several."""
    over = threading.Event()

    def ask(model: str, number: int) -> None:
        dice = random.Random(number)
        while not over.wait(dice.uniform(*PAUSE_S)):
            body = {"model": model, "messages": [{"role": "user", "content": "tell me more"}], "stream": True}
            with httpx.stream("POST", url + PATH, json=body, timeout=300) as answer:
                answer.read()

    models = itertools.chain(["echo-small"] * 2, ["echo-medium"] * 2, ["echo-large"] * 2)
    threads = [threading.Thread(target=ask, args=(model, n)) for n, model in enumerate(models)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def pictures(url: str, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    with chromium() as browser:
        for size, suffix in ((DESKTOP, ""), (PHONE, "-phone")):
            with looking(browser, url, size) as seen:
                for view in ("models", "requests", "logs"):
                    page = seen.open(view)
                    page.wait_for_timeout(3000)
                    page.screenshot(path=out / f"{view}{suffix}.png")
                page = seen.open("chat")
                page.select_option("select", REAL)
                page.click("details.settings summary")
                page.fill("label:has-text('temperature') input", "0")
                page.fill("textarea[aria-label='Message']", QUESTION)
                page.keyboard.press("Enter")
                page.wait_for_selector("text=tokens/s", timeout=WAIT_MS)
                page.screenshot(path=out / f"chat{suffix}.png")
            with looking(browser, url, size, color_scheme="dark") as seen:
                page = seen.open("devices")
                page.wait_for_selector("canvas")
                page.wait_for_timeout(3000)
                page.screenshot(path=out / f"devices{suffix}.png", full_page=True)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.console", description=__doc__)
    parser.add_argument("--minutes", type=float, default=MINUTES, help=f"of traffic; default {MINUTES:g}")
    parser.add_argument("--out", type=Path, default=PICTURES, help="default where the README has them")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="llm-manager-bench-") as folder:
        app = application(Path(folder))
        with serve_run(Path(folder), "console", [app], AS_SERVED, models=[REAL]) as (_, url), traffic(url):
            httpx.post(f"{url}/api/models/{BROKEN}/start?wait=false", timeout=30)
            say(f"{options.minutes:g} minutes of traffic on {url}")
            time.sleep(60 * options.minutes)
            pictures(url, options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
