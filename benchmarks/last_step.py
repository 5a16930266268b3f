"""The last step from other starts than the network: ``python benchmarks/last_step.py CTS``.

Started from the answers of TLT's network, of DLT, from the affine prior and from the truth itself,
on simulated pairs; a table of errors in mm. What remains from the truth is the last step's own.
``--largest`` is how far out patches lie about large lesions (`tlt.systems.local_motion`).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from tlt.errors import InputError
from tlt.evaluate import Case, simulated_cases
from tlt.metrics import p95
from tlt.systems import local_motion
from tlt.systems.base import AlignedPair, align
from tlt.systems.last_step import LastStep
from tlt.systems.network import NetworkSystem
from tlt.track import FOV_TOLERANCE_MM, make_system, near_field_of_view, register_pair


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cts", type=Path)
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--seed", type=int, default=2022)
    parser.add_argument("--largest", type=float, default=local_motion.LARGEST)
    given = parser.parse_args()
    tlt, dlt = (make_system(name, None, "cpu", "auto") for name in ("tlt", "dlt"))
    local_motion.LARGEST = given.largest
    errors: dict[tuple[str, str], list[float]] = {}
    radius: list[float] = []
    for case in simulated_cases(given.cts, given.pairs, given.seed):
        try:
            found, own = errors_of(case, tlt, dlt)
        except InputError:
            continue
        radius += own
        for name, values in found.items():
            errors.setdefault(name, []).extend(values)
    print("| start | n | mean there | mean after | median after | p95 after | over 10 mm after |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for about, least_mm in (("", 0.0), (", r >= 20 mm", 20.0)):
        chosen = np.array(radius) >= least_mm
        for start in dict.fromkeys(start for start, _ in errors):
            there, after = (np.array(errors[start, when])[chosen] for when in ("there", "after"))
            if len(after):
                cells = f"{there.mean():.2f} | {after.mean():.2f} | {np.median(after):.2f}"
                far = f"{p95(after):.1f} | {(after > 10).sum()}"
                print(f"| {start}{about} | {len(after)} | {cells} | {far} |")


@torch.inference_mode()
def errors_of(
    case: Case, tlt: NetworkSystem, dlt: NetworkSystem
) -> tuple[dict[tuple[str, str], list[float]], list[float]]:
    """Errors in mm of each start, there and after the last step, and the lesions' radii.

    Raises:
        InputError: the pair is refused.
    """
    study = case.study
    registration = register_pair(study.baseline, study.followup)
    seen = [truth for truth in study.truth if truth.in_view and not truth.vanished]
    priors = registration.baseline_to_followup(np.array([t.lesion.center_mm for t in seen]))
    near = near_field_of_view(study.followup, priors, FOV_TOLERANCE_MM)
    seen = [truth for truth, one in zip(seen, near, strict=True) if one]
    if not seen:
        return {}, []
    margin = max(tlt.margin_mm, dlt.margin_mm)
    lesions = [truth.lesion for truth in seen]
    pair = align(study.baseline, study.followup, lesions, registration, tlt.spacing_mm, margin)
    template, search = tlt.token_maps(pair)
    step = LastStep.of(pair, tlt.network, template, search)
    prior, radius = (torch.tensor(v, dtype=torch.float32) for v in (pair.prior_mm, pair.radius_mm))
    truth = torch.tensor([one.center_mm for one in seen], dtype=torch.float32)
    starts = {
        "TLT's network": tlt.network(template, search, prior, radius).center_mm,
        "DLT": answers(dlt, pair, prior, radius),
        "the prior": prior,
        "the truth": truth,
    }
    found = {}
    for name, start in starts.items():
        found[name, "there"] = (start - truth).norm(dim=1).tolist()
        found[name, "after"] = (step(prior, start, radius)[0] - truth).norm(dim=1).tolist()
    return found, [lesion.radius_mm for lesion in lesions]


def answers(
    system: NetworkSystem, pair: AlignedPair, prior: torch.Tensor, radius: torch.Tensor
) -> torch.Tensor:
    """Where a network puts the lesions (Q, 3) of a pair, a few at a time."""
    maps = system.token_maps(pair)
    parts = zip(prior.split(4), radius.split(4), strict=True)
    return torch.cat([system.network(*maps, *part).center_mm for part in parts])


if __name__ == "__main__":
    main()
