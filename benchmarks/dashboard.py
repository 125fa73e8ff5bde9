"""The picture of the Grafana dashboard: a short load on a real Serve, a real Prometheus, and the panels of
k8s/grafana/llm-manager.json drawn from what it answers.

Usage: python -m benchmarks.dashboard [--minutes M] [--out FILE]

Needs matplotlib (`pip install -e '.[bench]'`) and Debian's `prometheus`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import traffic
from benchmarks.command import say
from benchmarks.load import ROOT
from benchmarks.panels import Curve, draw, legend, save
from benchmarks.prometheus import Prometheus, prometheus
from benchmarks.servers import AS_SERVED, serve_run

DASHBOARD = ROOT / "k8s" / "grafana" / "llm-manager.json"
MINUTES = 2.5
STEP_S = 2.0
SETTLE_S = 12.0  # the page is up to ten seconds old
VARIABLES = {"$__rate_interval": "30s", "$application": ".*", "$model": ".*"}


def curves(asked: Prometheus, panel: Mapping[str, Any], span: tuple[float, float]) -> list[Curve]:
    """Of all queries of a panel."""
    found = []
    for target in panel["targets"]:
        query = target["expr"]
        for name, value in VARIABLES.items():
            query = query.replace(name, value)
        lines = asked.lines(query, *span, STEP_S)
        found += [Curve(legend(target["legendFormat"], line.labels), line) for line in lines]
    return found


def run(minutes: float, folder: Path, panels: Sequence[Mapping[str, Any]], out: Path) -> traffic.Tally:
    application = traffic.application(str(folder / "data"))
    with (
        serve_run(folder, traffic.NAME, [application], AS_SERVED, models=traffic.MODELS[:1]) as (_, url),
        prometheus(folder, url) as asked,
    ):
        say(f"{minutes:g} minutes of traffic on {url}")
        began = time.time()
        tally = asyncio.run(traffic.run(url, 60 * minutes))
        time.sleep(SETTLE_S)
        span = (began, time.time())
        save(draw(panels, [curves(asked, panel, span) for panel in panels], span), out)
    return tally


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dashboard", description=__doc__)
    parser.add_argument("--minutes", type=float, default=MINUTES, help=f"default {MINUTES:g}")
    parser.add_argument("--out", type=Path, default=DASHBOARD.with_suffix(".png"), help="default beside the dashboard")
    options = parser.parse_args(arguments)
    panels = json.loads(DASHBOARD.read_text())["panels"]
    with tempfile.TemporaryDirectory(prefix="llm-manager-bench-") as folder:
        tally = run(options.minutes, Path(folder), panels, options.out)
    for problem in tally.failed:
        say(problem)
    return 1 if tally.failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
