"""A picture a lesion: baseline above, follow-up below, in the three planes, at one scale."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle
from matplotlib.patheffects import withStroke
from matplotlib.transforms import Affine2D
from numpy.typing import NDArray

from tlt.geometry import Triple
from tlt.io.cuts import PLANES, Window, choose_window, cut, nearby
from tlt.lesion import Match, Status
from tlt.volume import Volume

if TYPE_CHECKING:
    from tlt.track import PairResult

BACKGROUND = "#0e1116"
OUTSIDE = "#1d2530"
TEXT = "#e6e9ee"
FAINT = "#9aa4b2"
BASELINE_COLOR = "#5cc8ff"
PRIOR_COLOR = "#ff8af3"
STATUS_COLOR = {
    Status.FOUND: "#5fe08c",
    Status.LOW_CONFIDENCE: "#ffc24b",
    Status.NOT_FOUND: "#ff6b6b",
    Status.OUTSIDE_FOV: "#c0a7ff",
}
STATUS_WORDS = {
    Status.FOUND: "found",
    Status.LOW_CONFIDENCE: "low confidence",
    Status.NOT_FOUND: "not found",
    Status.OUTSIDE_FOV: "outside the field of view",
}
# A dark edge keeps marks readable on bright tissue.
EDGE = [withStroke(linewidth=2.6, foreground="#000000b0")]
BAR_EDGE = [withStroke(linewidth=4.0, foreground="#000000b0")]

MIN_FIELD_MM, MAX_FIELD_MM = 80.0, 400.0
DPI = 110
# The layout in pixels: a panel, the gap between panels, and the margins.
PANEL, GAP, LEFT, TOP, RIGHT, BOTTOM = 330, 12, 72, 82, 10, 54
WIDTH = LEFT + 3 * PANEL + 2 * GAP + RIGHT
HEIGHT = TOP + 2 * PANEL + GAP + BOTTOM


@dataclass(frozen=True)
class Picture:
    """The PNG of a lesion in one follow-up (numbered from 1), and the name for its file."""

    lesion_id: str
    followup: int
    file_name: str
    png: bytes


def draw_pictures(
    baseline: Volume, followups: Sequence[Volume], pairs: Sequence[PairResult]
) -> Iterator[Picture]:
    """The pictures of every lesion in every follow-up, one after the other."""
    several = len(followups) > 1
    names: set[str] = set()
    for number, (followup, pair) in enumerate(zip(followups, pairs, strict=True), 1):
        for match in pair.matches:
            side = f"Follow-up {number}" if several else "Follow-up"
            png = draw_match(baseline, followup, match, side)
            name = file_name(match.lesion.id, number if several else None, names)
            yield Picture(match.lesion.id, number, name, png)


def draw_match(baseline: Volume, followup: Volume, match: Match, name: str = "Follow-up") -> bytes:
    """The PNG of one lesion: where it was, and where it is thought to be.

    ``name`` stands beside the lower row. Both rows show the same field, four radii wide, at the
    same scale and window.
    """
    lesion = match.lesion
    field_mm = float(np.clip(4 * lesion.radius_mm, MIN_FIELD_MM, MAX_FIELD_MM))
    window = choose_window(baseline, lesion.center_mm, lesion.radius_mm)
    figure = Figure(figsize=(WIDTH / DPI, HEIGHT / DPI), dpi=DPI, facecolor=BACKGROUND)
    canvas = FigureCanvasAgg(figure)
    pixels = np.full((HEIGHT, WIDTH, 3), to_rgb(BACKGROUND))
    _fill_row(pixels, 0, baseline, lesion.center_mm, window, field_mm)
    _fill_row(pixels, 1, followup, match.center_mm, window, field_mm)
    figure.figimage(np.round(255 * pixels).astype(np.uint8))
    _draw_title(figure, match)
    _draw_caption(figure, match, window)
    _draw_side(figure, 0, "Baseline", lesion.center_mm)
    _draw_side(figure, 1, name, match.center_mm)
    _draw_marks(figure, match, field_mm)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # A label in a script that the font lacks shows boxes; that is no warning for a user.
        warnings.filterwarnings("ignore", message="Glyph")
        canvas.print_png(buffer, pil_kwargs={"compress_level": 4})
    return buffer.getvalue()


def _corner(row: int, column: int) -> tuple[int, int]:
    """Left and top pixel of a panel."""
    return LEFT + column * (PANEL + GAP), TOP + row * (PANEL + GAP)


def _fill_row(
    pixels: NDArray,
    row: int,
    volume: Volume,
    center_mm: Triple | None,
    window: Window,
    field_mm: float,
) -> None:
    """Put the three slices of an image into the picture; a flat tone where there is nothing."""
    part = None if center_mm is None else nearby(volume, center_mm, field_mm)
    for column, plane in enumerate(PLANES):
        left, top = _corner(row, column)
        panel = pixels[top : top + PANEL, left : left + PANEL]
        panel[:] = to_rgb(OUTSIDE)
        if part is None or center_mm is None:
            continue
        gray = window.gray(cut(part, center_mm, plane, field_mm, PANEL))
        measured = ~np.isnan(gray)
        panel[measured] = gray[measured, None]


def _draw_marks(figure: Figure, match: Match, field_mm: float) -> None:
    """Circles, cross-hairs, prior, letters and scale of all panels."""
    radius_mm = match.radius_mm or match.lesion.radius_mm
    for column, plane in enumerate(PLANES):
        above, below = (_panel_mm(row, column, field_mm) for row in (0, 1))
        _draw_letters(figure, above, plane.letters, field_mm / 2)
        _draw_scale(figure, above, field_mm / 2)
        _draw_target(figure, above, BASELINE_COLOR, match.lesion.radius_mm, field_mm)
        style: dict[str, Any] = {"color": FAINT, "ha": "center", "transform": above}
        figure.text(0, -0.515 * field_mm, plane.name, va="bottom", fontsize=10, **style)
        if match.center_mm is None:
            style["transform"] = below
            figure.text(0, 0, STATUS_WORDS[Status.OUTSIDE_FOV], fontsize=10, **style)
            continue
        _draw_letters(figure, below, plane.letters, field_mm / 2)
        _draw_scale(figure, below, field_mm / 2)
        color, dashed = STATUS_COLOR[match.status], match.radius_mm is None
        _draw_target(figure, below, color, radius_mm, field_mm, dashed)
        prior = plane.offset(match.center_mm, match.prior_center_mm)
        _draw_prior(figure, below, prior, field_mm)
    _draw_sizes(figure, match, field_mm)


def _panel_mm(row: int, column: int, field_mm: float) -> Affine2D:
    """From millimetres right and down of a panel's middle to the figure's pixels."""
    left, top = _corner(row, column)
    scale = PANEL / field_mm
    return Affine2D().scale(scale, -scale).translate(left + PANEL / 2, HEIGHT - top - PANEL / 2)


def _draw_target(
    figure: Figure,
    panel: Affine2D,
    color: str,
    radius_mm: float,
    field_mm: float,
    dashed: bool = False,
) -> None:
    """A circle of the radius, and cross-hairs that leave the lesion free."""
    half = field_mm / 2
    radius_mm = min(radius_mm, 0.95 * half)
    style: dict[str, Any] = {"color": color, "path_effects": EDGE, "transform": panel}
    line = (0, (4, 3)) if dashed else "-"
    figure.add_artist(Circle((0, 0), radius_mm, fill=False, lw=1.4, ls=line, **style))
    gap = min(radius_mm + 0.035 * field_mm, 0.82 * half)
    reach = min(gap + 0.14 * field_mm, 0.9 * half)
    for x, y in ((1, 0), (-1, 0), (0, 1), (0, -1)):
        figure.add_artist(Line2D([x * gap, x * reach], [y * gap, y * reach], lw=1.1, **style))


def _draw_sizes(figure: Figure, match: Match, field_mm: float) -> None:
    """Long and short axis in the axial panels, each where it lies; dotted if doubtful."""
    lesion, plane = match.lesion, PLANES[0]
    rows = (
        (lesion.center_mm, lesion.size, BASELINE_COLOR),
        (match.center_mm, match.size, STATUS_COLOR[match.status]),
    )
    for row, (center, size, color) in enumerate(rows):
        if center is None or size is None:
            continue
        style: dict[str, Any] = {"color": color, "lw": 0.9, "ls": ":" if size.doubtful else "-"}
        style["transform"] = _panel_mm(row, 0, field_mm)
        for axis in (size.long_axis, size.short_axis):
            if axis is None:
                continue
            ends = [plane.offset(center, end) for end in (axis.start_mm, axis.end_mm)]
            if max(abs(v) for end in ends for v in end) < field_mm / 2:
                xs, ys = zip(*ends, strict=True)
                figure.add_artist(Line2D(xs, ys, **style))


def _draw_prior(
    figure: Figure, panel: Affine2D, offset_mm: tuple[float, float], field_mm: float
) -> None:
    """A small diamond where registration alone puts the lesion, if it is in the panel."""
    if max(abs(offset_mm[0]), abs(offset_mm[1])) >= 0.48 * field_mm:
        return
    x, y = offset_mm
    style: dict[str, Any] = {"mfc": "none", "mec": PRIOR_COLOR, "mew": 1.4, "path_effects": EDGE}
    figure.add_artist(Line2D([x], [y], marker="D", ms=6, transform=panel, **style))


def _draw_letters(figure: Figure, panel: Affine2D, letters: str, half: float) -> None:
    """Which side of the patient each edge is."""
    edge = 0.94 * half
    style: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 9, "weight": "bold"}
    places = ((-edge, 0), (edge, 0), (0, -edge), (0, edge))
    for letter, (x, y) in zip(letters, places, strict=True):
        figure.text(x, y, letter, color=TEXT, path_effects=EDGE, transform=panel, **style)


def _draw_scale(figure: Figure, panel: Affine2D, half: float) -> None:
    """A bar of 20 mm (50 in wide fields) in the lower right corner."""
    length = 20 if half < 75 else 50
    right, y = 0.92 * half, 0.91 * half
    style: dict[str, Any] = {"color": TEXT, "transform": panel}
    bar = {"lw": 2.2, "solid_capstyle": "butt", "path_effects": BAR_EDGE, **style}
    figure.add_artist(Line2D([right - length, right], [y, y], **bar))
    label = {"ha": "center", "va": "bottom", "fontsize": 8, "path_effects": EDGE, **style}
    figure.text(right - length / 2, y - 0.03 * half, f"{length} mm", **label)


def _draw_side(figure: Figure, row: int, name: str, center_mm: Triple | None) -> None:
    """Beside a row: which image it is, and where its middle lies."""
    y = 1 - (_corner(row, 0)[1] + PANEL / 2) / HEIGHT
    style: dict[str, Any] = {"rotation": 90, "ha": "center", "va": "center"}
    figure.text(26 / WIDTH, y, name, color=TEXT, fontsize=12, **style)
    if center_mm is not None:
        place = "LPS {:.1f}, {:.1f}, {:.1f} mm".format(*center_mm)
        figure.text(50 / WIDTH, y, place, color=FAINT, fontsize=8.5, **style)


def _draw_title(figure: Figure, match: Match) -> None:
    """Name, status, confidence and distance: what to see at a glance."""
    name = " · ".join(part for part in (match.lesion.id, match.lesion.label) if part)
    facts = [STATUS_WORDS[match.status], f"confidence {100 * match.confidence:.0f} %"]
    if match.status is Status.LOW_CONFIDENCE:
        facts = [f"low confidence, {100 * match.confidence:.0f} %"]
    elif match.status is Status.OUTSIDE_FOV:
        facts = facts[:1]
    if match.prior_distance_mm is not None:
        facts.append(f"{match.prior_distance_mm:.1f} mm from prior")
    # parse_math: a $ in a lesion's name is a $.
    style: dict[str, Any] = {
        "fontsize": 12.5,
        "weight": "bold",
        "parse_math": False,
        "va": "center",
    }
    y = 1 - 27 / HEIGHT
    figure.text(LEFT / WIDTH, y, _shortened(name, 32), color=TEXT, **style)
    color = STATUS_COLOR[match.status]
    figure.text(1 - RIGHT / WIDTH, y, " · ".join(facts), color=color, ha="right", **style)


def _draw_caption(figure: Figure, match: Match, window: Window) -> None:
    """What the marks mean, and the window."""
    words = f"circle: radius {match.lesion.radius_mm:.1f} mm"
    if match.radius_mm is not None:
        words += f", now {match.radius_mm:.1f} mm"
    elif match.center_mm is not None:
        words += " (dashed: that of the baseline)"
    if match.center_mm is not None:
        words += "   ·   diamond: prior, where registration alone puts it"
    view = f"{window.name} window, {window.low:.0f} to {window.high:.0f} HU"
    style: dict[str, Any] = {"color": FAINT, "fontsize": 8.5, "va": "center"}
    figure.text(LEFT / WIDTH, 36 / HEIGHT, words, **style)
    figure.text(LEFT / WIDTH, 16 / HEIGHT, _size_words(match), **style)
    figure.text(1 - RIGHT / WIDTH, 36 / HEIGHT, view, ha="right", **style)


def _size_words(match: Match) -> str:
    """The diameters in words, or why there are none."""
    if match.size is None:
        return f"no size: {match.size_note}" if match.size_note else ""
    long, short = match.size.long_axis, match.size.short_axis
    across = "" if short is None else f" x {short.length_mm:.1f}"
    doubt = f" (dotted: doubtful, {match.size.note})" if match.size.doubtful else ""
    return _shortened(f"lines: {long.length_mm:.1f}{across} mm{doubt}", 145)


def file_name(lesion_id: str, followup: int | None, taken: set[str], kind: str = "lesion") -> str:
    """A file name for a lesion that no other lesion has: ``lesion_L1.png``."""
    stem = f"{kind}_" + (re.sub(r"[^A-Za-z0-9.-]+", "_", lesion_id).strip("._") or "x")[:80]
    if followup is not None:
        stem += f"_fu{followup}"
    name, number = f"{stem}.png", 2
    while name.lower() in taken:
        name, number = f"{stem}~{number}.png", number + 1
    taken.add(name.lower())
    return name


def _shortened(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
