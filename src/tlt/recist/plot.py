"""Trajectories as a PNG: the sum with its limits, and the diameter of every target."""

from __future__ import annotations

import io
import itertools
from dataclasses import dataclass
from decimal import Decimal

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tlt.recist.assessment import Assessment, FollowedLesion
from tlt.recist.criteria import PD_MM, PD_PERCENT, PR_PERCENT, mm_text
from tlt.recist.measure import Measurement
from tlt.recist.roles import Part

WIDTH, HEIGHT, DPI = 10.6, 4.2, 110
MARKERS = "osD^v"
NAME = 24  # letters of a lesion's name in the legend


@dataclass(frozen=True)
class Colors:
    """What the page's two themes draw with; the lines differ for colour-blind eyes too."""

    card: str
    text: str
    faint: str
    line: str
    better: str
    worse: str
    lesions: tuple[str, ...]


LIGHT = Colors(
    "#ffffff", "#16202c", "#5b6877", "#dfe4ea", "#14803c", "#c02626",
    ("#0b62c4", "#b35900", "#6a3fc0", "#00796b", "#a01360"),
)  # fmt: skip
DARK = Colors(
    "#161b23", "#e6e9ee", "#9aa4b2", "#2a323d", "#5fe08c", "#ff7b7b",
    ("#7cc0ff", "#ffb45c", "#c0a7ff", "#4dd0c0", "#ff8fc7"),
)  # fmt: skip


def draw_trajectories(assessment: Assessment, dark: bool = False) -> bytes:
    """The PNG; over days from baseline where all are known, else over the time points."""
    colors = DARK if dark else LIGHT
    figure = Figure(figsize=(WIDTH, HEIGHT), dpi=DPI, facecolor=colors.card, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for axes in (left, right):
        _style(axes, assessment, colors)
    _draw_sum(left, assessment, colors)
    _draw_lesions(right, assessment, colors)
    out = io.BytesIO()
    figure.savefig(out, format="png")
    return out.getvalue()


def _places(a: Assessment) -> list[float]:
    """Where each time point is drawn, the baseline first."""
    days = [point.day for point in a.time_points]
    known = [float(day) for day in days if day is not None]
    if len(known) == len(days):
        return [0.0, *known]
    return [float(number) for number in range(len(days) + 1)]


def _style(axes: Axes, a: Assessment, colors: Colors) -> None:
    axes.set_facecolor(colors.card)
    axes.tick_params(colors=colors.faint, labelsize=9)
    for side, spine in axes.spines.items():
        spine.set_color(colors.line)
        spine.set_visible(side in ("left", "bottom"))
    axes.grid(axis="y", color=colors.line, linewidth=0.8)
    axes.set_axisbelow(True)
    places, by_day = _places(a), all(point.day is not None for point in a.time_points)
    axes.set_xlim(-0.08 * places[-1], places[-1] + 0.5 * (places[-1] - places[-2]))
    numbers = ["baseline", *(f"{point.followup}" for point in a.time_points)]
    axes.set_xticks(places, [f"{p:.0f}" for p in places] if by_day else numbers)
    label = "days from baseline" if by_day else "follow-up"
    axes.set_xlabel(label, color=colors.faint, fontsize=9)
    axes.set_ylabel("mm", color=colors.faint, fontsize=9)


def _draw_sum(axes: Axes, a: Assessment, colors: Colors) -> None:
    axes.set_title("Sum of target diameters", color=colors.text, fontsize=11, loc="left")
    places = _places(a)
    baseline = a.baseline_sum_mm
    if baseline is None:
        _say(axes, "no sum at baseline", colors)
        return
    sums = [baseline, *(point.sums.sum_mm for point in a.time_points)]
    pr = float(baseline * (100 + PR_PERCENT) / 100)
    axes.axhline(pr, color=colors.better, linestyle="--", linewidth=1.3, label="-30 % of baseline")
    limits = [_pd_limit(point.sums.nadir_mm) for point in a.time_points]
    half = 0.45 * min(b - a for a, b in itertools.pairwise(places))
    starts, ends = [p - half for p in places[1:]], [p + half for p in places[1:]]
    label = "+20 %, and 5 mm, over the smallest before"
    axes.hlines(limits, starts, ends, colors=colors.worse, linestyles="--", lw=1.3, label=label)
    _line(axes, places, sums, colors.text, "o", "sum", 2.2)
    for place, value, point in zip(places[1:], sums[1:], a.time_points, strict=True):
        shown = point.overall.response.value + ("?" if point.preliminary else "")
        height = float(point.sums.counted_mm if value is None else value)
        axes.annotate(
            shown, (place, height), (0, 9), textcoords="offset points", ha="center",
            color=colors.text, fontsize=9, fontweight="bold",
            bbox={"facecolor": colors.card, "edgecolor": "none", "pad": 1.5},
        )  # fmt: skip
        if value is None:
            axes.plot([place], [height], "o", mfc="none", color=colors.faint, label="not complete")
    top = max([float(baseline), *limits, *(float(p.sums.counted_mm) for p in a.time_points)])
    axes.set_ylim(0, 1.18 * top)
    _legend(axes, colors)


def _pd_limit(nadir_mm: Decimal | None) -> float:
    """The sum from which it is progression."""
    nadir = nadir_mm or Decimal(0)
    return float(max(nadir * (100 + PD_PERCENT) / 100, nadir + PD_MM))


def _draw_lesions(axes: Axes, a: Assessment, colors: Colors) -> None:
    axes.set_title("Each target", color=colors.text, fontsize=11, loc="left")
    targets = a.of(Part.TARGET)
    if not targets:
        _say(axes, "no target lesions", colors)
        return
    places = _places(a)
    for number, lesion in enumerate(targets):
        color = colors.lesions[number % len(colors.lesions)]
        marker = MARKERS[number % len(MARKERS)]
        every = [lesion.baseline, *(a.measured(lesion, point) for point in a.time_points)]
        values = [m.diameter_mm for m in every]
        _line(axes, places, values, color, marker, _name(lesion), 1.6)
        _hollow(axes, places, every, color, marker, colors)
    axes.set_ylim(bottom=0)
    axes.margins(y=0.15)
    axes.set_ylim(0, 1.1 * axes.get_ylim()[1])
    _legend(axes, colors)


def _line(
    axes: Axes,
    places: list[float],
    values: list[Decimal | None],
    color: str,
    marker: str,
    label: str,
    width: float,
) -> None:
    """A line that is broken where a value is not known."""
    heights = [float("nan") if value is None else float(value) for value in values]
    axes.plot(places, heights, marker=marker, color=color, linewidth=width, label=label, ms=6)


def _hollow(
    axes: Axes,
    places: list[float],
    every: list[Measurement],
    color: str,
    marker: str,
    colors: Colors,
) -> None:
    """A hollow mark where a reader still has to look."""
    open_ = [
        (place, float(m.diameter_mm))
        for place, m in zip(places, every, strict=True)
        if m.diameter_mm is not None and (m.needs_review or m.needs_size)
    ]
    for place, height in open_:
        axes.plot([place], [height], marker=marker, color=color, mfc=colors.card, ms=6)


def _name(lesion: FollowedLesion) -> str:
    size = "" if lesion.baseline.diameter_mm is None else mm_text(lesion.baseline.diameter_mm)
    name = f"{lesion.id} {lesion.site or lesion.label}".strip()
    name = name if len(name) <= NAME else name[: NAME - 1] + "…"
    # A dollar would start mathematics.
    axis = "short axis, " if lesion.nodal else ""
    return f"{name} ({axis}{size or 'not measured'})".replace("$", r"\$")


def _legend(axes: Axes, colors: Colors) -> None:
    handles, labels = axes.get_legend_handles_labels()
    once = dict(zip(labels, handles, strict=True))
    axes.legend(
        once.values(), once.keys(), loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2,
        frameon=False, fontsize=8.5, labelcolor=colors.text,
    )  # fmt: skip


def _say(axes: Axes, text: str, colors: Colors) -> None:
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", color=colors.faint)
