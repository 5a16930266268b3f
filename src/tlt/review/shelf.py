"""The images of a study, read in the background and checked against the result."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from threading import Lock

import numpy as np

from tlt.errors import InputError, TltError
from tlt.io.images import load_volume
from tlt.io.results import Image, Result
from tlt.io.sources import Sources
from tlt.pacs.source import is_peer_source, pulled_source
from tlt.review.slices import Stack


class Shelf:
    """Image 0 is the baseline, 1, 2, ... the follow-ups; each is read when it is first wanted."""

    def __init__(self, paths: Sequence[str], facts: Sequence[Image]) -> None:
        """Paths as `load_volume` takes them, empty where unknown; facts of the result for each."""
        self._paths, self._facts = list(paths), list(facts)
        self._reading: dict[int, Future[Stack]] = {}
        # Two at once: the first two images are what the page shows first.
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="read-image")
        self._lock = Lock()
        self._pulled = ExitStack()  # folders of images from a PACS, until the review ends

    def __len__(self) -> int:
        return len(self._paths)

    def want(self, number: int) -> Future[Stack]:
        """The image, read or being read; raises `InputError` for a number without an image."""
        if not 0 <= number < len(self._paths):
            raise InputError(f"image {number}: there are 0 to {len(self._paths) - 1}")
        with self._lock:
            if number not in self._reading:
                self._reading[number] = self._pool.submit(self._read, number)
            return self._reading[number]

    def stack(self, number: int) -> Stack:
        """The image, waited for; raises `InputError` where it cannot be shown."""
        return self.want(number).result()

    def status(self, number: int) -> tuple[str, str]:
        """``waiting``, ``loading``, ``ready`` or ``failed``, and why it failed."""
        reading = self._reading.get(number)
        if reading is None or not reading.done():
            return ("waiting" if reading is None else "loading"), ""
        error = reading.exception()
        if error is None:
            return "ready", ""
        known = isinstance(error, TltError)
        return "failed", str(error) if known else f"cannot be read ({type(error).__name__})"

    def close(self) -> None:
        """Start no further reading, and remove what was fetched from a PACS."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._pulled.close()

    def _local(self, path: str) -> str:
        """The path, or the folder of what a PACS has: exports read the headers again."""
        if not is_peer_source(path):
            return path
        return str(self._pulled.enter_context(pulled_source(path)))

    def _read(self, number: int) -> Stack:
        path, facts = self._paths[number], self._facts[number]
        role, option = _role(number)
        if not path:
            raise InputError(
                f"{role} {facts.path}: not known where it lies on this machine; "
                f"end tlt review and start it with {option} IMAGE"
            )
        try:
            volume = load_volume(self._local(path))
        except TltError as error:
            raise InputError(
                f"{role}: {error}; or end tlt review and start it with {option} IMAGE"
            ) from error
        _check_same(volume.grid.size_xyz, volume.grid.spacing_mm, facts, role, option)
        return Stack(volume)


def image_paths(
    result: Result, sources: Sources, baseline: str | None, followups: Sequence[str]
) -> list[str]:
    """Where baseline and follow-ups lie: as given, else as the run left word of it.

    Raises:
        InputError: more or fewer follow-ups are given than the result has.
    """
    count = len(result.followups)
    if followups and len(followups) != count:
        raise InputError(
            f"{len(followups)} times --followup, but the result has {count} follow-ups: "
            f"{', '.join(image.path for image in result.followups)}; give each, in this order"
        )
    known = list(sources.followups) if len(sources.followups) == count else [""] * count
    return [baseline or sources.baseline, *(followups or known)]


def _role(number: int) -> tuple[str, str]:
    return ("baseline", "--baseline") if number == 0 else (f"follow-up {number}", "--followup")


def _check_same(
    size_xyz: tuple[int, int, int],
    spacing_mm: tuple[float, float, float],
    facts: Image,
    role: str,
    option: str,
) -> None:
    """Refuse another image than the one that was tracked: its points would lie elsewhere."""
    if size_xyz != facts.size_xyz or not np.allclose(spacing_mm, facts.spacing_mm, atol=1e-3):
        raise InputError(
            f"{role}: this image has {_shape(size_xyz, spacing_mm)}, but the tracked one, "
            f"{Path(facts.path).name}, has {_shape(facts.size_xyz, facts.spacing_mm)}; "
            f"give that with {option}"
        )


def _shape(size_xyz: tuple[int, int, int], spacing_mm: tuple[float, float, float]) -> str:
    size = " x ".join(map(str, size_xyz))
    return f"{size} voxels of {' x '.join(f'{s:.2f}' for s in spacing_mm)} mm"
