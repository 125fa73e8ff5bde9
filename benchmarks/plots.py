"""The plots of benchmarks/README.md, drawn from its tables, so that both say the same.

Usage: python -m benchmarks.plots

Needs matplotlib (`pip install -e '.[bench]'`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.tables import Told, number, read

README = Path(__file__).with_name("README.md")
PICTURES = Path(__file__).with_name("pictures")
COLOURS = ("#4e79a7", "#bab0ac", "#f28e2b", "#59a14f", "#b07aa1", "#e15759", "#76b7b2")
WHOLE = "#79706e"
STARVED_S = 100.0  # waits beyond it are cut off in the plot


def datapath(text: str, figure: Figure) -> None:
    rows = read(text, "Data path", "server", "load", "chunks/s")
    servers = list(dict.fromkeys(row["server"] for row in rows))
    loads = ("1", "8", "32")
    speed, first = figure.subplots(1, 2)
    for axes, column, title in (
        (speed, "chunks/s", "chunks a second, by streams at once"),
        (first, "TTFT p50 ms", "first byte, ms (median)"),
    ):
        series = {
            server: [
                number(row[column]) for load in loads for row in rows if (row["server"], row["load"]) == (server, load)
            ]
            for server in servers
        }
        _bars(axes, loads, series)
        axes.set_title(title)
        axes.set_yscale("log")
    first.legend(fontsize=8, loc="upper left")


def swap(text: str, figure: Figure) -> None:
    rows = read(text, "Swaps", "victim chosen", "first token")
    whole = read(text, "Swaps", "round", "bare mlx")[-1]
    steps = [column for column in rows[0] if column]
    (axes,) = figure.subplots(1, 1, squeeze=False)[0]
    names = [f"ours, {row['']}" for row in rows]
    left = [0.0] * len(rows)
    for step, colour in zip(steps, COLOURS, strict=False):
        widths = [number(row[step]) for row in rows]
        axes.barh(names, widths, left=left, label=step, color=colour)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    axes.barh(["ours, mlx in a pool"], [number(whole["mlx in a pool"])], color=WHOLE)
    axes.barh(["mlx_lm server, started by hand"], [number(whole["bare mlx"])], color=WHOLE)
    axes.invert_yaxis()
    axes.set_title("seconds from the request to the first token of a model that is not up (medians)")
    axes.legend(fontsize=8)


def simulation(text: str, figure: Figure) -> None:
    rows = read(text, "Simulation", "workload", "hit rate", "p99 s")
    workloads: list[str] = []
    ways: dict[str, dict[str, Told]] = {}
    for row in rows:
        if row["workload"]:
            workloads.append(row["workload"])
        ways.setdefault(row[""], {})[workloads[-1]] = row
    hits, waits = figure.subplots(1, 2, sharey=True)
    labels = [_wrapped(workload) for workload in workloads]

    def of(way: str, column: str) -> list[float]:
        return [number(ways[way].get(workload, {}).get(column, "")) for workload in workloads]

    _bars(hits, labels, {way: of(way, "hit rate") for way in ways}, across=True)
    hits.set_title("requests that find their model up, %")
    hits.legend(fontsize=8)
    told = {way: of(way, "p99 s") for way in ways if "in order" not in way}
    _bars(waits, labels, {way: [min(wait, STARVED_S) for wait in seen] for way, seen in told.items()}, across=True)
    waits.set_title(f"wait p99, s (cut off at {STARVED_S:g})")
    hits.invert_yaxis()


def scale(text: str, figure: Figure) -> None:
    served = read(text, "Scale", "models", "answers s")
    cores = [
        row
        for row in read(text, "Scale", "while nothing is asked", "controller cores")
        if "first" in row["while nothing is asked"]
    ]
    policy = read(text, "Scale", "models", "table KB")
    deploy, idle, call = figure.subplots(1, 3)
    deploy.plot([number(row["models"]) for row in served], [number(row["answers s"]) for row in served], "o-")
    deploy.set_title("seconds until all are served")
    for role, colour in zip(("controller", "ingress", "keeper"), COLOURS, strict=False):
        idle.plot(
            [number(row["models"]) for row in cores],
            [number(row[f"{role} cores"]) for row in cores],
            "o-",
            label=role,
            color=colour,
        )
    idle.axhline(0.2, color="#e15759", linestyle=":", label="at most")
    idle.set_title("cores while nothing is asked")
    idle.legend(fontsize=8)
    for column in (column for column in policy[0] if column.endswith(" ms")):
        models = [number(row["models"]) for row in policy]
        call.plot(models, [number(row[column]) for row in policy], "o-", label=column.removesuffix(" ms"))
    call.set_title("the policy's call, ms")
    call.set_xscale("log")
    call.set_yscale("log")
    call.legend(fontsize=8)
    for axes in (deploy, idle, call):
        axes.set_xlabel("models")
        axes.set_ylim(bottom=None if axes is call else 0)


PLOTS: Mapping[str, tuple[Callable[[str, Figure], None], tuple[float, float]]] = {
    "datapath": (datapath, (10, 3.6)),
    "swap": (swap, (10, 3)),
    "simulation": (simulation, (10, 4.5)),
    "scale": (scale, (10, 3.2)),
}
"""Each with its size in inches."""


def _bars(axes: Axes, groups: Sequence[str], series: Mapping[str, Sequence[float]], *, across: bool = False) -> None:
    """Side by side in each group. across: the bars lie."""
    width = 0.8 / len(series)
    for place, (name, values) in enumerate(series.items()):
        at = [group + (place - (len(series) - 1) / 2) * width for group in range(len(groups))]
        draw = axes.barh if across else axes.bar
        draw(at, values, width, label=name, color=COLOURS[place])
    (axes.set_yticks if across else axes.set_xticks)(range(len(groups)), groups)


def _wrapped(text: str) -> str:
    return text.replace(", ", ",\n", 1)


def main() -> int:
    text = README.read_text()
    PICTURES.mkdir(exist_ok=True)
    for name, (draw, size) in PLOTS.items():
        figure = Figure(figsize=size, dpi=110, layout="constrained")
        draw(text, figure)
        figure.savefig(PICTURES / f"{name}.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
