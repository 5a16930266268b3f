"""Where the images of a result lie on this machine, for `tlt review`.

Results name an image by the last part of its path, because a path can hold a patient's name. So
that the images are found again, a run leaves their whole paths beside the results in a hidden file
which only its owner may read. It is no part of the results: leave it out when you hand them on.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tlt.io.files import atomic_path
from tlt.volume import Volume

SOURCES = ".tlt-review.json"


@dataclass(frozen=True)
class Sources:
    """The images of a result, as `load_volume` takes them, and the formats that it was written in.

    An image that is not known is an empty text. ``sr_profile`` is that of a DICOM SR.
    """

    baseline: str = ""
    followups: tuple[str, ...] = ()
    formats: tuple[str, ...] = ("json",)
    sr_profile: str = "plain"


def write_sources(
    folder: Path,
    baseline: Volume,
    followups: Sequence[Volume],
    formats: Sequence[str],
    sr_profile: str = "plain",
) -> None:
    """Leave the paths of the images in a folder of results, for its owner only."""
    paths = tuple(map(_source, followups))
    sources = Sources(_source(baseline), paths, tuple(formats), sr_profile)
    save_sources(sources, folder)


def save_sources(sources: Sources, folder: Path) -> None:
    """Write the hidden file: whole or not at all, readable by its owner only."""
    content = {
        "baseline": sources.baseline,
        "followups": list(sources.followups),
        "formats": list(sources.formats),
        "sr_profile": sources.sr_profile,
    }
    with atomic_path(folder / SOURCES) as beside:
        # Closed from the start: a file that is made first and closed then is open in between.
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(json.dumps(content, indent=1) + "\n")


def read_sources(folder: Path) -> Sources:
    """What the hidden file says; nothing known where it is missing or damaged."""
    try:
        content = json.loads((folder / SOURCES).read_text(encoding="utf-8"))
        return Sources(
            str(content["baseline"]),
            tuple(str(path) for path in content["followups"]),
            tuple(str(name) for name in content["formats"]),
            str(content.get("sr_profile", "plain")),  # earlier runs left no word of it
        )
    except (OSError, ValueError, KeyError, TypeError):
        return Sources()


def _source(volume: Volume) -> str:
    """The path that reads the image again, with the series where a folder may hold several."""
    if not volume.path:
        return ""
    path = str(Path(volume.path).absolute())
    return f"{path}#{volume.series_uid}" if volume.series_uid else path
