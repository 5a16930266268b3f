"""Scores of rows as figures and as text: DLS metric, TLT/UAE metric, strata, intervals, tests."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from tlt.metrics import LesionRow, Summary, summarise
from tlt.statistics import bootstrap_mean, compare

Scores = dict[str, Any]

HEADINGS = [
    *("", "n", "CPM@10mm %", "CPM@Radius %", "X mm", "Y mm", "Z mm", "MED mm"),
    *("median", "p95", "fixed 10 mm %", "in box %", "s/lesion"),
]


def score(rows: Sequence[LesionRow], other: Sequence[LesionRow] | None = None) -> Scores:
    """All figures of rows; numbers that do not exist are None.

    ``other`` are rows of another tracker on the same lesions, to compare with.

    Raises:
        ValueError: no rows.
        InputError: other lesions in ``other``.
    """
    scores: Scores = asdict(summarise(rows))
    scores["intervals"] = {
        "cpm_10mm": _interval(rows, lambda r: 100.0 * r.within_10mm),
        "cpm_radius": _interval(rows, lambda r: 100.0 * r.within_radius),
        "med_mm": _interval(rows, lambda r: r.error_mm),
    }
    scores["strata"] = {name: asdict(summarise(part)) for name, part in strata(rows).items()}
    if other is not None:
        scores["comparison"] = asdict(compare(rows, other))
    return without_nan(scores)


def strata(rows: Sequence[LesionRow]) -> dict[str, list[LesionRow]]:
    """The rows by size of the lesion, slice distance, error of the prior and, if several, kind."""
    groups: dict[str, list[LesionRow]] = {}
    kinds = {_kind(row) for row in rows}
    for row in rows:
        names = [_size(row.radius_mm)]
        if math.isfinite(row.slice_mm):
            names.append(_slices(row.slice_mm))
        if row.prior_mm is not None:
            near = math.dist(row.prior_mm, row.truth_mm) < 10
            names.append("prior < 10 mm off" if near else "prior >= 10 mm off")
        if len(kinds) > 1:
            names.append(_kind(row))
        for name in names:
            groups.setdefault(name, []).append(row)
    order = ["radius < 5 mm", "radius 5-10 mm", "radius >= 10 mm"]
    order += ["slices < 2.5 mm", "slices 2.5-5 mm", "slices >= 5 mm"]
    order += ["prior < 10 mm off", "prior >= 10 mm off", *sorted(kinds)]
    return {name: groups[name] for name in order if name in groups}


def _size(radius_mm: float) -> str:
    if radius_mm < 5:
        return "radius < 5 mm"
    return "radius 5-10 mm" if radius_mm < 10 else "radius >= 10 mm"


def _slices(slice_mm: float) -> str:
    if slice_mm < 2.5:
        return "slices < 2.5 mm"
    return "slices 2.5-5 mm" if slice_mm < 5 else "slices >= 5 mm"


def _kind(row: LesionRow) -> str:
    return row.kind if row.kind in ("painted", "structure") else "real lesion"


def table(summaries: dict[str, Summary]) -> str:
    """One line a name, as Markdown whose columns stand in line."""
    return aligned([HEADINGS, *(_cells(name, s) for name, s in summaries.items())])


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Lines of cells, the first one headings, as a Markdown table whose columns stand in line."""
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    lines = [lines[0], ["-" * width for width in widths], *lines[1:]]
    return "".join(
        "| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |\n"
        for line in lines
    )


def text_of(scores: Scores) -> str:
    """The figures of `score` for a person, as Markdown."""
    parts = {"all": scores, **scores["strata"]}
    text = table({name: _summary(values) for name, values in parts.items()})
    units = {"cpm_10mm": "CPM@10mm %", "cpm_radius": "CPM@Radius %", "med_mm": "MED mm"}
    for name, (low, high) in scores["intervals"].items():
        told = "none, fewer than two patients" if low is None else f"{low:.2f} to {high:.2f}"
        text += f"\n{units[name]}: 95 % interval {told} (bootstrap over patients)"
    missed = scores["n"] - scores["answered"]
    if missed:
        text += f"\n{missed} of {scores['n']} without an answer: wrong in CPM, not in MED"
    if "comparison" in scores:
        text += "\nfirst - second: " + comparison_text(scores["comparison"])
    return text


def comparison_text(c: Scores) -> str:
    """The fields of a `Comparison`, in words."""

    def p(value: float | None) -> str:
        return "?" if value is None else f"{value:.2g}"

    mean = c["med_difference_mm"]
    return (
        f"MED {'?' if mean is None else format(mean, '+.2f')} mm, paired t-test "
        f"p = {p(c['p_lesions'])} over {c['n']} lesions ({c['misses']} without both answers), "
        f"{p(c['p_patients'])} over patients; "
        f"CPM@10mm right in the first only {c['first_only']}, in the second only "
        f"{c['second_only']}, McNemar p = {p(c['p_mcnemar'])}"
    )


def _cells(name: str, s: Summary) -> list[str]:
    def cell(mean: float, spread: float) -> str:
        return f"{mean:.2f} ± {spread:.2f}"

    values = [
        *(str(s.n), f"{s.cpm_10mm:.2f}", f"{s.cpm_radius:.2f}"),
        *(cell(s.med_x_mm, s.med_x_std_mm), cell(s.med_y_mm, s.med_y_std_mm)),
        *(cell(s.med_z_mm, s.med_z_std_mm), cell(s.med_mm, s.med_std_mm)),
        *(f"{s.median_mm:.2f}", f"{s.p95_mm:.1f}"),
        *(f"{s.cpm_fixed_10mm:.2f}", f"{s.cpm_box:.2f}", f"{s.seconds:.2f}"),
    ]
    return [name, *(value.replace("nan", "-") for value in values)]


def _summary(values: Scores) -> Summary:
    known: dict[str, Any] = {
        name: math.nan if values[name] is None else values[name]
        for name in Summary.__dataclass_fields__
    }
    return Summary(**known)


def _interval(rows: Sequence[LesionRow], value) -> list[float]:
    found = bootstrap_mean(rows, value)
    return [found.low, found.high]


def without_nan(value: Any) -> Any:
    """The same with None for NaN and infinity, which JSON does not have."""
    if isinstance(value, dict):
        return {name: without_nan(v) for name, v in value.items()}
    if isinstance(value, list):
        return [without_nan(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
