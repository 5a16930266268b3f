"""The table of an experiment on variants: measured figures, tests, and the paper's beside them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlt.ablation import FULL, Variant
from tlt.metrics import LesionRow, p95
from tlt.model.presets import ModelConfig
from tlt.scores import aligned, score, without_nan
from tlt.statistics import bootstrap_errors, compare
from tlt.training.config import TrainConfig

HEADINGS = [
    *("network", "n", "CPM@10mm %", "CPM@Radius %", "MED mm", "median mm", "p95 mm"),
    *("MED - full mm", "p MED", "p MED, patients", "p CPM", "p CPM, McNemar"),
    *("paper (DLS): CPM@10mm %", "paper (DLS): MED mm"),
]
FIGURES: dict[str, Callable[[NDArray[np.float64]], float]] = {
    "median_mm": lambda errors_mm: float(np.median(errors_mm)),
    "p95_mm": p95,
}


def variant_scores(
    variants: Sequence[Variant], rows: Mapping[str, Sequence[LesionRow]]
) -> list[dict[str, Any]]:
    """The figures of each variant, its tests against the full network, and the paper's figures."""
    found = []
    for variant in variants:
        own = rows[variant.name]
        scores = score(own)
        for name, figure in FIGURES.items():
            interval = bootstrap_errors(own, figure)
            scores["intervals"][name] = [interval.low, interval.high]
        against = None if variant.name == FULL else asdict(compare(own, rows[FULL]))
        paper = None if variant.paper is None else asdict(variant.paper)
        line = {"name": variant.name, "label": variant.label, "network": variant.network}
        found.append(without_nan({**line, **scores, "against_full": against, "paper_dls": paper}))
    return found


def variant_table(scores: Sequence[dict[str, Any]]) -> str:
    """The figures of `variant_scores` as Markdown, a line a variant."""
    return aligned([HEADINGS, *(_cells(line) for line in scores)])


def _cells(line: dict[str, Any]) -> list[str]:
    measured = [
        _with_interval(line, name, digits)
        for name, digits in (("cpm_10mm", 1), ("cpm_radius", 1), ("med_mm", 2))
    ]
    measured += [_with_interval(line, name, 1) for name in FIGURES]
    tests = line["against_full"]
    words = ["", "", "", "", ""]
    if tests is not None:
        names = ("p_lesions", "p_patients", "p_cpm_lesions", "p_mcnemar")
        words = [_number(tests["med_difference_mm"], "+.2f")]
        words += [_number(tests[name], ".2g") for name in names]
    paper, told = line["paper_dls"], ["", ""]
    if paper is not None:
        told = [f"{paper['cpm_10mm']:.2f}", f"{paper['med_mm']:.2f} ± {paper['med_std_mm']:.2f}"]
    return [line["label"], str(line["n"]), *measured, *words, *told]


def _with_interval(line: dict[str, Any], name: str, digits: int) -> str:
    """A figure with its interval: ``85.1 [80.2, 90.0]``."""
    low, high = (_number(end, f".{digits}f") for end in line["intervals"][name])
    return f"{_number(line[name], f'.{digits}f')} [{low}, {high}]"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None or not math.isfinite(value) else format(value, form)


def remarks(
    config: TrainConfig, variants: Sequence[Variant], data: Path, tested_on: str
) -> list[str]:
    """What a reader must know to read the table rightly, from the configuration itself."""
    network = config.model
    found = [
        f"Measured: {tested_on} of `{data}`, the network alone (no last step), every line on the "
        "same pairs and registrations. In brackets: 95 % bootstrap over patients.",
        "p against the full network: paired t-test over lesions (as in the paper), over patients' "
        "means, of CPM@10mm over lesions, and exact McNemar of CPM@10mm.",
        "The paper's columns are on DLS, with other data, network size and training: compare the "
        "order and the differences, not the values.",
        f"Every line: preset `{config.preset}`, {config.steps} steps of {config.accumulate} pairs, "
        f"seed {config.seed}: the same first weights and the same training pairs. One training a "
        "line, so the spread between seeds is not in the intervals.",
    ]
    if config.start:
        found.append(
            f"Training starts from `{config.start}`, which may have learned with all modules on."
        )
    used = [config.data, config.validation]
    used += [m.pairs for m in (config.marked, config.validation_marked) if m is not None]
    trained = {path.resolve() for path in used if path is not None}
    if data.resolve() in trained:
        found.append("The CTs are those of the training or its validation: not independent.")
    return found + _switches(network, {key for v in variants for key in v.network})


def _switches(network: ModelConfig, switched: set[str]) -> list[str]:
    """What each switch does, and what stays on without it."""
    found = []
    around = f"the search window is centred on the prior (± {network.search_reach_mm:.0f} mm)"
    if network.position == "relative":
        around += ", and tokens carry their offset from it as position encoding"
    else:
        around += ", so the place in the window tells where it is"
    found.append(
        f"Without RAAM the bias of the attention is gone, but the prior is not: {around}. "
        "Differences by RAAM are smaller for it."
    )
    if network.similarity:
        found.append(
            "The similarity of learned embeddings (ours, not the paper's) is on in every line; it "
            "looks at the lesion's place in the baseline, with or without SSS."
        )
    found.append(
        f"Without SSS the template is a cube of 5 tokens ({5 * network.token_mm:.0f} mm) about the "
        "lesion, whatever its size. Without global regression the centre is that of the most "
        "likely token, in training (its loss reaches that token alone) as in the test."
    )
    reach = network.template_reach_mm
    if "threshold" in switched:
        radius = reach * math.sqrt(3 / (-12 * math.log(network.threshold)))
        found.append(
            f"SSS never takes tokens beyond {reach:.0f} mm along an axis: thresholds below "
            f"{network.threshold} change nothing for lesions of a radius above {radius:.0f} mm."
        )
    return found


def table_text(title: str, scores: Sequence[dict[str, Any]], notes: Sequence[str]) -> str:
    """The page that an experiment leaves: title, table, remarks."""
    listed = "".join(f"- {note}\n" for note in notes)
    return f"# {title}\n\n{variant_table(scores)}\n{listed}"
