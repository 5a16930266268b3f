"""What is shipped with the package, known without reading a network: weights and measured rows."""

from __future__ import annotations

import json
import math
from importlib import resources
from pathlib import Path

from safetensors import safe_open

# Weights that trackers take by name, and the trainings that make them again, one after the other.
KNOWN = {
    "tlt-ct": (
        "configs/compact.yaml",
        "configs/compact-views.yaml",
        "configs/compact-motion.yaml",
    ),
    "transt-ct": ("configs/table1/transt.yaml",),
    "dlt-ct": ("configs/table1/dlt.yaml",),
    "dlt-mix-ct": ("configs/table1/dlt-mix.yaml",),
    "siamrpn-ct": ("configs/table1/siamrpn.yaml",),
    "voxelmorph-ct": ("configs/table1/voxelmorph.yaml",),
    "vuld-ct": ("configs/table1/vuld.yaml",),
    "lens-ct": ("configs/table1/lens.yaml",),
    "lesiongraph-ct": ("configs/table1/lesiongraph.yaml",),
    "lesanet-ct": ("configs/table1/lesanet.yaml",),
}

FIGURES = ("n", "cpm_10mm", "cpm_radius", "med_mm", "median_mm", "p95_mm")
PUBLISHED = (*FIGURES, "seconds", "peak_mib")


def how_made(name: str) -> str:
    """The commands, to be run in a clone of the repository, that make weights again."""
    return ", then ".join(f"'tlt train --config {config}'" for config in KNOWN[name])


def shipped_path(name: str) -> Path:
    """Where the weights of a name are, if they are shipped."""
    return Path(str(resources.files("tlt"))) / "weights" / f"{name}.safetensors"


# What a file of weights holds beside what was learned: batch statistics, and a detector's passes.
NOT_LEARNED = ("running_mean", "running_var", "num_batches_tracked", "passes")


def count_parameters(path: Path) -> int:
    """How many parameters a file of weights holds."""
    with safe_open(path, "np") as file:
        return sum(
            math.prod(file.get_slice(name).get_shape())
            for name in file.keys()  # noqa: SIM118  (it is no dictionary)
            if name.rsplit(".", 1)[-1] not in NOT_LEARNED
        )


def published() -> dict[str, dict[str, float | None]]:
    """The row of each tracker on the published benchmark: some figures of `tlt.table1.table_lines`.

    ``lesions_...`` are those of the lesions alone, None where the row holds none beside landmarks,
    or nothing else. They are data (``weights/table1.json``, copied from a run's ``table1.json``).
    """
    path = resources.files("tlt").joinpath("weights/table1.json")
    if not path.is_file():
        return {}
    lines = {line["name"]: line for line in json.loads(path.read_text())}
    return {
        name: {key: line[key] for key in PUBLISHED}
        | {f"lesions_{key}": (line["lesions"] or {}).get(key) for key in FIGURES}
        for name, line in lines.items()
    }
