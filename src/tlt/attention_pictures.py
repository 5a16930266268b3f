"""Figure S1 as a picture a lesion: what the network looks at, over both images.

Columns: baseline, follow-up, each level of cross-attention, class scores. Rows: the three planes
through the network's answer, then the axial one by the same weights without RAAM.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Rectangle

from tlt.attention_maps import AttentionMaps, as_volume
from tlt.io.cuts import PLANES, Plane, Window, choose_window, cut
from tlt.io.pictures import BACKGROUND, BASELINE_COLOR, EDGE, FAINT, OUTSIDE, PRIOR_COLOR, TEXT
from tlt.lesion import Lesion
from tlt.registration.result import Registration
from tlt.volume import Volume

if TYPE_CHECKING:
    from numpy.typing import NDArray

PANEL, GAP, LEFT, TOP, RIGHT, BOTTOM = 230, 10, 66, 118, 16, 118
CAPTION = 20  # under each panel
DPI = 110
AROUND_MM = 12.0  # beyond the search window
NEAR_MM = 12.0
ANSWER_COLOR = "#5fe08c"
HEAT = LinearSegmentedColormap.from_list(
    "heat", [(0.9, 0.1, 0.0, 0.0), (1.0, 0.35, 0.0, 0.55), (1.0, 0.95, 0.3, 0.85)]
)


def draw_maps(
    baseline: Volume,
    followup: Volume,
    lesion: Lesion,
    maps: AttentionMaps,
    without_raam: AttentionMaps,
    registration: Registration,
) -> bytes:
    """The PNG of a lesion."""
    field_mm = float(np.ptp(maps.search_mm, axis=0).max()) + 2 * AROUND_MM
    window = choose_window(baseline, lesion.center_mm, lesion.radius_mm)
    columns = 3 + len(maps.layers)
    figure = _figure(columns)
    back = registration.baseline_to_followup.inverse()
    panels = _Panels(figure, window, field_mm, lesion.radius_mm, maps)
    every = [*maps.layers, maps.scores]
    bare = [*without_raam.layers, without_raam.scores]
    for row, plane in enumerate((*PLANES, PLANES[0])):
        last = row == len(PLANES)
        axes = [panels.axes(row, column) for column in range(columns)]
        panels.slice(axes[0], baseline, np.array(lesion.center_mm), plane)
        if last:
            at = as_volume(maps.template, back(maps.template_mm), maps.token_mm)
            panels.heat(axes[0], at, np.array(lesion.center_mm), plane, maps.template.max())
            panels.caption(axes[0], "last cross-attention, search line")
        panels.target(axes[0], plane)
        for column, axis in enumerate(axes[1:]):
            panels.slice(axis, followup, maps.center_mm, plane)
            panels.marks(axis, plane, without_raam if last and column else maps)
            weights = (bare if last else every)[column - 1] if column else None
            if column == 0 and last and maps.bias is not None:
                weights = maps.bias
                panels.caption(axis, "RAAM's bias: a Gaussian about the prior")
            if weights is None:
                continue
            at = as_volume(weights, maps.search_mm, maps.token_mm)
            both = max(every[column - 1].max(), bare[column - 1].max()) if column else weights.max()
            panels.heat(axis, at, maps.center_mm, plane, both)
            if column:
                seen = without_raam if last else maps
                panels.caption(axis, _spread(seen, weights))
    _words(figure, lesion, maps, without_raam, window, columns)
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer, pil_kwargs={"compress_level": 6})
    return buffer.getvalue()


def _spread(maps: AttentionMaps, weights: NDArray) -> str:
    """How far from the answer a map lies: a plane through the answer may not show its peak."""
    near = 100 * maps.share_near(weights, maps.center_mm, NEAR_MM)
    peak = np.linalg.norm(maps.search_mm[weights.argmax()] - maps.center_mm)
    return f"{near:.0f} % near answer, peak {peak:.0f} mm off"


def _size(columns: int) -> tuple[int, int]:
    rows = len(PLANES) + 1
    width = LEFT + columns * (PANEL + GAP) - GAP + RIGHT
    return width, TOP + rows * (PANEL + GAP + CAPTION) + BOTTOM


def _figure(columns: int) -> Figure:
    width, height = _size(columns)
    return Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor=BACKGROUND)


class _Panels:
    """Draws slices, maps and marks at one scale; millimetres right and down of the middle."""

    def __init__(
        self,
        figure: Figure,
        window: Window,
        field_mm: float,
        radius_mm: float,
        maps: AttentionMaps,
    ) -> None:
        self.figure, self.window, self.field_mm = figure, window, field_mm
        self.radius_mm, self.maps = radius_mm, maps
        half = field_mm / 2
        self.extent = (-half, half, half, -half)

    def axes(self, row: int, column: int) -> Axes:
        width = self.figure.get_figwidth() * DPI
        height = self.figure.get_figheight() * DPI
        left = LEFT + column * (PANEL + GAP)
        bottom = height - TOP - row * (PANEL + GAP + CAPTION) - PANEL
        axes = self.figure.add_axes(
            (left / width, bottom / height, PANEL / width, PANEL / height), facecolor=OUTSIDE
        )
        axes.set(xlim=self.extent[:2], ylim=self.extent[2:], xticks=[], yticks=[])
        for spine in axes.spines.values():
            spine.set_visible(False)
        return axes

    def slice(self, axes: Axes, volume: Volume, center_mm: NDArray, plane: Plane) -> None:
        gray = self.window.gray(cut(volume, center_mm, plane, self.field_mm, PANEL))
        axes.imshow(gray, cmap="gray", vmin=0, vmax=1, extent=self.extent, aspect="auto")
        edge = 0.46 * self.field_mm
        places = ((-edge, 0), (edge, 0), (0, -edge), (0, edge))
        for letter, (x, y) in zip(plane.letters, places, strict=True):
            style: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 7}
            axes.text(x, y, letter, color=TEXT, path_effects=EDGE, **style)

    def heat(
        self, axes: Axes, weights: Volume, center_mm: NDArray, plane: Plane, top: float
    ) -> None:
        values = cut(weights, center_mm, plane, self.field_mm, PANEL)
        shown = np.ma.masked_invalid(values)
        axes.imshow(shown, cmap=HEAT, vmin=0, vmax=top, extent=self.extent, aspect="auto")

    def target(self, axes: Axes, plane: Plane) -> None:
        """The lesion in the baseline."""
        style: dict[str, Any] = {"path_effects": EDGE, "fill": False, "lw": 1.3}
        axes.add_patch(Circle((0, 0), self.radius_mm, color=BASELINE_COLOR, **style))

    def marks(self, axes: Axes, plane: Plane, seen: AttentionMaps) -> None:
        """Window, prior and answer in the follow-up."""
        ends = [
            plane.offset(self.maps.center_mm, end(self.maps.search_mm, axis=0) + side)
            for end, side in ((np.min, -seen.token_mm / 2), (np.max, seen.token_mm / 2))
        ]
        low, high = np.min(ends, axis=0), np.max(ends, axis=0)
        box: dict[str, Any] = {"fill": False, "ec": FAINT, "lw": 0.7, "ls": (0, (3, 3))}
        axes.add_patch(Rectangle((low[0], low[1]), *(high - low), **box))
        prior = plane.offset(self.maps.center_mm, seen.prior_mm)
        answer = plane.offset(self.maps.center_mm, seen.center_mm)
        style: dict[str, Any] = {"path_effects": EDGE, "mfc": "none", "mew": 1.3}
        axes.plot(*prior, marker="D", ms=6, mec=PRIOR_COLOR, **style)
        axes.plot(*answer, marker="+", ms=11, mec=ANSWER_COLOR, **style)

    def caption(self, axes: Axes, words: str) -> None:
        axes.text(
            0.5, -0.025, words, color=FAINT, fontsize=7, ha="center", va="top",
            transform=axes.transAxes,
        )  # fmt: skip


def _words(
    figure: Figure,
    lesion: Lesion,
    maps: AttentionMaps,
    without: AttentionMaps,
    window: Window,
    columns: int,
) -> None:
    """Title, names of columns and rows, legend and scale of colours."""
    width, height = _size(columns)
    moved = np.linalg.norm(maps.center_mm - maps.prior_mm)
    differ = np.linalg.norm(maps.center_mm - without.center_mm)
    title = f"{lesion.id}   {lesion.label}   radius {lesion.radius_mm:.1f} mm"
    facts = f"answer {moved:.1f} mm from prior; RAAM's bias moves it by {differ:.1f} mm"
    style: dict[str, Any] = {"color": TEXT, "va": "center", "parse_math": False}
    figure.text(LEFT / width, 1 - 28 / height, title, fontsize=13, weight="bold", **style)
    figure.text(LEFT / width, 1 - 58 / height, facts, fontsize=9, **style)
    levels = [f"cross-attention {i + 1}" for i in range(len(maps.layers))]
    for column, name in enumerate(["baseline", "follow-up", *levels, "class scores"]):
        x = (LEFT + column * (PANEL + GAP) + PANEL / 2) / width
        figure.text(x, 1 - (TOP - 14) / height, name, fontsize=10, ha="center", **style)
    for row, name in enumerate([*(plane.name for plane in PLANES), "axial, without RAAM"]):
        y = 1 - (TOP + row * (PANEL + GAP + CAPTION) + PANEL / 2) / height
        figure.text(28 / width, y, name, fontsize=10, rotation=90, ha="center", **style)
    _legend(figure, window, columns)


def _legend(figure: Figure, window: Window, columns: int) -> None:
    width, height = _size(columns)
    view = f"{window.name} window, {window.low:.0f} to {window.high:.0f} HU"
    marks = (
        (BASELINE_COLOR, "circle: the lesion in the baseline"),
        (PRIOR_COLOR, "diamond: prior, where registration alone puts it"),
        (ANSWER_COLOR, "plus: the network's answer, through which the planes are cut"),
    )
    for line, (color, words) in enumerate(marks):
        y = (BOTTOM - 22 - 20 * line) / height
        figure.text(LEFT / width, y, words, color=color, fontsize=8.5, va="center")
    told = (
        "cross-attention: lesion tokens (query) to search tokens, mean over heads and tokens",
        f"near answer: share of the weight within {NEAR_MM:.0f} mm; peak: the strongest token, "
        "in this plane or not; dashed: search window",
        f"last row: same weights, RAAM's bias left out   ·   {view}",
    )
    for line, words in enumerate(told):
        y = (BOTTOM - 22 - 20 * line) / height
        figure.text((LEFT + 430) / width, y, words, color=FAINT, fontsize=8.5, va="center")
    bar = figure.add_axes((LEFT / width, 26 / height, 200 / width, 10 / height), facecolor="black")
    figure.colorbar(ScalarMappable(Normalize(0, 1), HEAT), bar, orientation="horizontal")
    bar.set(xticks=[])
    words = "colour: 0 to the column's highest weight (one scale with and without RAAM)"
    x, y = (LEFT + 210) / width, 31 / height
    figure.text(x, y, words, color=FAINT, fontsize=8.5, va="center")
