"""Panels of a Grafana dashboard, drawn with matplotlib (`pip install -e '.[bench]'`) in the dashboard's own grid."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from matplotlib.ticker import FuncFormatter, MaxNLocator
from PIL import Image

from benchmarks.prometheus import Line

COLUMNS = 24
WIDTH, ROW_HEIGHT, GAP = 1200, 27, 8  # pixels
DPI = 100
BACKGROUND, PANEL, TEXT, FAINT = "#111217", "#181b1f", "#ccccdc", "#2c2f36"
COLOURS = ("#73bf69", "#f2cc0c", "#5794f2", "#ff9830", "#f2495c", "#b877d9", "#8ab8ff", "#ffa6b0", "#96d98d", "#c0d8ff")
LEGENDS_A_LINE = 4
MIB = 2**20
PALETTE = 256  # colours of the file
INNER = {"left": 60, "right": 12, "top": 30, "bottom": 26, "legend": 15}  # pixels, the last for each line of it


@dataclass(frozen=True)
class Curve:
    name: str
    line: Line


def legend(template: str, labels: Mapping[str, str]) -> str:
    return re.sub(r"{{\s*(\w+)\s*}}", lambda found: labels.get(found[1], ""), template).strip()


def draw(panels: Sequence[Mapping[str, Any]], curves: Sequence[Sequence[Curve]], span: tuple[float, float]) -> Figure:
    """curves: of each of the panels. span: the run's first and last second."""
    height = ROW_HEIGHT * max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels) + GAP
    figure = Figure(figsize=(WIDTH / DPI, height / DPI), dpi=DPI, facecolor=BACKGROUND)
    for panel, found in zip(panels, curves, strict=True):
        _panel(figure, height, panel, found, span)
    return figure


def save(figure: Figure, file: Path) -> None:
    drawn = io.BytesIO()
    figure.savefig(drawn, facecolor=figure.get_facecolor())
    Image.open(drawn).convert("RGB").quantize(PALETTE, dither=Image.Dither.NONE).save(file, optimize=True)


def _panel(
    figure: Figure, height: int, panel: Mapping[str, Any], curves: Sequence[Curve], span: tuple[float, float]
) -> None:
    place = panel["gridPos"]
    column = (WIDTH - GAP) / COLUMNS
    left, top = GAP + place["x"] * column, GAP + place["y"] * ROW_HEIGHT
    wide, high = place["w"] * column - GAP, place["h"] * ROW_HEIGHT - GAP
    box = FancyBboxPatch(
        (left / WIDTH, 1 - (top + high) / height), wide / WIDTH, high / height,
        boxstyle="square,pad=0", facecolor=PANEL, edgecolor=FAINT, linewidth=0.8,
        transform=figure.transFigure, zorder=-1,
    )  # fmt: skip
    figure.add_artist(box)
    figure.text(
        (left + 10) / WIDTH, 1 - (top + 17) / height, panel["title"],
        color=TEXT, fontsize=8.5, va="center",
    )  # fmt: skip
    below = INNER["bottom"] + INNER["legend"] * max(1, math.ceil(len(curves) / LEGENDS_A_LINE))
    axes = figure.add_axes((
        (left + INNER["left"]) / WIDTH,
        1 - (top + high - below) / height,
        (wide - INNER["left"] - INNER["right"]) / WIDTH,
        (high - INNER["top"] - below) / height,
    ))  # fmt: skip
    _plot(axes, panel["fieldConfig"]["defaults"], curves, span[0])
    _dress(axes, panel["fieldConfig"]["defaults"]["unit"], span)
    if curves:
        axes.legend(
            loc="upper left", bbox_to_anchor=((10 - INNER["left"]) / (wide - INNER["left"] - INNER["right"]), 0),
            ncols=LEGENDS_A_LINE, bbox_transform=axes.transAxes, frameon=False, labelcolor=TEXT, fontsize=6.5,
            handlelength=1.2, columnspacing=1.2, handletextpad=0.5, borderaxespad=2.6, borderpad=0, labelspacing=0.4,
        )  # fmt: skip


def _plot(axes: Axes, defaults: Mapping[str, Any], curves: Sequence[Curve], began: float) -> None:
    custom, scale = defaults["custom"], MIB if defaults["unit"] == "bytes" else 1
    opacity = custom["fillOpacity"] / 100
    stacked = custom.get("stacking", {}).get("mode") == "normal"
    under: dict[float, float] = {}
    for number, curve in enumerate(curves):
        colour = COLOURS[number % len(COLOURS)]
        times = [at - began for at in curve.line.times]
        floor = [under.get(at, 0.0) if stacked else 0.0 for at in times]
        values = [low + value / scale for low, value in zip(floor, curve.line.values, strict=True)]
        under.update((at, value) for at, value in zip(times, values, strict=True) if not math.isnan(value))
        axes.plot(times, values, color=colour, linewidth=1.1, label=curve.name)
        axes.fill_between(times, floor, values, color=colour, alpha=opacity, linewidth=0)


def _dress(axes: Axes, unit: str, span: tuple[float, float]) -> None:
    axes.set_facecolor(PANEL)
    axes.set_xlim(0, span[1] - span[0])
    axes.set_ylim(0, _top(axes))
    axes.tick_params(colors=TEXT, labelsize=6.5, length=0, pad=5)
    axes.grid(color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[3, 6]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda at, _: f"{int(at) // 60}:{int(at) % 60:02}"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: UNITS[unit](value)))
    for spine in axes.spines.values():
        spine.set_visible(False)


def _top(axes: Axes) -> float:
    """Of what is drawn; 1 where all is nothing."""
    highest = float(axes.dataLim.ymax)
    return 1.1 * highest if 0 < highest < math.inf else 1.0


def _seconds(value: float) -> str:
    return f"{value:g} s" if value >= 1 or value == 0 else f"{1000 * value:g} ms"


UNITS: Mapping[str, Callable[[float], str]] = {
    "s": _seconds,
    "reqps": lambda value: f"{value:g} req/s",
    "bytes": lambda value: f"{value:g} MiB",
    "short": lambda value: f"{value:g}",
}
"""A value of each of Grafana's units that the dashboard has."""
