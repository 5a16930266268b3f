"""DeepLesion as it is distributed: 16-bit PNG slices and ``DL_info.csv``, made into NIfTI volumes.

Source: Yan et al., DeepLesion (2018). A pixel is HU + 32768. Only slices around each annotated one
were published; every run of them is a sub-volume named ``Patient_Study_Series_first-last``, as the
authors of DLS name theirs.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from tlt.data.dls import pixels_to_mm
from tlt.errors import InputError
from tlt.geometry import Grid
from tlt.io.dicom import MIN_SIZE
from tlt.io.images import save_volume
from tlt.volume import Volume

OFFSET_HU = 32768
COLUMNS = ("File_name", "Slice_range", "Spacing_mm_px_")
MEASURED = (
    *("Key_slice_index", "Bounding_boxes", "Lesion_diameters_Pixel_", "Coarse_lesion_type"),
    *("Normalized_lesion_location", "Possibly_noisy", "Train_Val_Test"),
)
TRAINING, VALIDATION = 1, 2  # of Train_Val_Test
FILE_NAME = re.compile(r"(\d+_\d+_\d+)_(\d+)\.png")


@dataclass(frozen=True)
class SubVolume:
    """A run of published slices.

    Attributes:
        series: ``PatientID_StudyID_SeriesID``, also the folder of its PNGs.
        first, last: slice numbers, both included.
        spacing_mm: (x, y, slice).
    """

    series: str
    first: int
    last: int
    spacing_mm: tuple[float, float, float]

    @property
    def name(self) -> str:
        """The file name that the lists of DLS use."""
        return f"{self.series}_{self.first:03d}-{self.last:03d}.nii.gz"

    def png(self, folder: Path, number: int) -> Path:
        """Where a slice lies below the folder of all images."""
        return folder / self.series / f"{number:03d}.png"


@dataclass(frozen=True)
class Annotation:
    """One annotated lesion, in the frame of `tlt.data.dls.pixels_to_mm`.

    Attributes:
        volume: file name of its sub-volume.
        center_mm: middle of its bounding box, on the key slice.
        radius_mm: half the longer RECIST diameter; nothing is known of its extent along z.
        type: DeepLesion's coarse type less one (`tlt.training.lesion_labels.TYPES`); -1 unknown.
        place: share of the body's extent along x, y, z.
        split: 1 training, 2 validation, 3 test.
    """

    volume: str
    center_mm: tuple[float, float, float]
    radius_mm: float
    type: int
    place: tuple[float, float, float]
    split: int


def sub_volumes(info: Path) -> list[SubVolume]:
    """The sub-volumes that ``DL_info.csv`` annotates, each once, by name.

    Raises:
        InputError: unreadable, a column missing, or a value that cannot be.
    """
    found = {v.name: v for v in (_sub_volume(info, line) for line in _lines(info, COLUMNS))}
    return [found[name] for name in sorted(found)]


def read_annotations(info: Path) -> list[Annotation]:
    """The lesions of ``DL_info.csv`` in their order, those that may be noise left out.

    Raises:
        InputError: unreadable, a column missing, or a value that cannot be.
    """
    lines = _lines(info, (*COLUMNS, *MEASURED))
    return [_annotation(info, line) for line in lines if line["Possibly_noisy"].strip() != "1"]


def _lines(info: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    """The lines of the table.

    Raises:
        InputError: unreadable, empty, or a column missing.
    """
    if not info.is_file():
        raise InputError(f"{info}: no such file; give DL_info.csv of DeepLesion")
    try:
        with info.open(newline="") as file:
            reader = csv.DictReader(file, restval="")
            missing = [c for c in columns if c not in (reader.fieldnames or ())]
            if missing:
                raise InputError(f"{info}: no column {missing[0]}; give DL_info.csv of DeepLesion")
            lines = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{info}: cannot be read ({error}); give DL_info.csv") from error
    if not lines:
        raise InputError(f"{info}: lists no lesion; give DL_info.csv of DeepLesion")
    return lines


def _annotation(info: Path, line: dict[str, str]) -> Annotation:
    volume = _sub_volume(info, line)

    def numbers(name: str, count: int) -> list[float]:
        values = [float(v) for v in line[name].split(",")]
        if len(values) != count:
            raise ValueError(f"{name} has {len(values)} numbers, not {count}")
        return values

    try:
        left, top, right, bottom = numbers("Bounding_boxes", 4)
        x, y, z = numbers("Normalized_lesion_location", 3)
        below = int(line["Key_slice_index"]) - volume.first
        middle = ((left + right) / 2, (top + bottom) / 2, float(below))
        return Annotation(
            volume.name,
            pixels_to_mm(middle, volume.spacing_mm),
            max(numbers("Lesion_diameters_Pixel_", 2)) * volume.spacing_mm[0] / 2,
            max(int(line["Coarse_lesion_type"]) - 1, -1),
            (x, y, z),
            int(line["Train_Val_Test"]),
        )
    except ValueError as error:
        raise InputError(f"{info}: {line['File_name']}: {error}; correct the line") from error


def _sub_volume(info: Path, line: dict[str, str]) -> SubVolume:
    named = FILE_NAME.fullmatch(line["File_name"].strip())
    try:
        if named is None:
            raise ValueError("its File_name is not Patient_Study_Series_Slice.png")
        first, last = (int(v) for v in line["Slice_range"].split(","))
        x, y, z = (float(v) for v in line["Spacing_mm_px_"].split(","))
        if first > last or min(x, y) <= 0 or z == 0:
            raise ValueError(f"slices {first} to {last}, spacing {x}, {y}, {z} cannot be")
    except ValueError as error:
        raise InputError(f"{info}: {line['File_name']}: {error}; correct the line") from error
    return SubVolume(named[1], first, last, (x, y, abs(z)))  # some spacings are negative


def convert_deeplesion(
    images: Path,
    info: Path,
    output: Path,
    only: set[str] | None = None,
) -> Iterator[tuple[SubVolume, str]]:
    """Write each sub-volume as NIfTI; yield it with what was wrong, "" where nothing was.

    A sub-volume with a missing or damaged slice is cut to the longest run that holds together; its
    file keeps the name of the whole, and its origin the place. One that exists is left alone.
    ``only`` restricts the names.
    """
    for volume in sub_volumes(info):
        if only is not None and volume.name not in only:
            continue
        target = output / volume.name
        if target.exists():
            yield volume, ""
            continue
        slices, problem = _read_slices(images, volume)
        run = _longest_run(slices)
        if len(run) < MIN_SIZE:
            yield volume, f"{problem}; not written, {len(run)} slices are too few"
            continue
        save_volume(_volume(slices, run, volume), target)
        if problem:
            problem += f"; slices {run[0]} to {run[-1]} were written"
        yield volume, problem


def _read_slices(images: Path, volume: SubVolume) -> tuple[dict[int, np.ndarray], str]:
    """The slices by number, in HU, and what is wrong with those that are left out."""
    slices: dict[int, np.ndarray] = {}
    problems = []
    for number in range(volume.first, volume.last + 1):
        path = volume.png(images, number)
        try:
            with Image.open(path) as image:
                pixels = np.asarray(image)
        except FileNotFoundError:
            problems.append(f"slice {path.name} is missing")
            continue
        except (OSError, SyntaxError, ValueError) as error:
            problems.append(f"slice {path.name} cannot be read ({error})")
            continue
        known = next(iter(slices.values()), pixels)
        if pixels.ndim != 2 or pixels.shape != known.shape or pixels.dtype.itemsize < 2:
            problems.append(f"slice {path.name} is {pixels.dtype} {pixels.shape}")
            continue
        slices[number] = (pixels.astype(np.int32) - OFFSET_HU).astype(np.int16)
    return slices, ", ".join(problems)


def _longest_run(slices: dict[int, np.ndarray]) -> list[int]:
    """The longest run of consecutive numbers."""
    best: list[int] = []
    run: list[int] = []
    for number in sorted(slices):
        run = [*run, number] if run and number == run[-1] + 1 else [number]
        best = max(best, run, key=len)
    return best


def _volume(slices: dict[int, np.ndarray], run: list[int], volume: SubVolume) -> Volume:
    """The CT in the frame of `tlt.data.dls.pixels_to_mm`: x left, y back, slices downwards."""
    voxels = np.stack([slices[number] for number in run])
    origin = (0.0, 0.0, -(run[0] - volume.first) * volume.spacing_mm[2])
    grid = Grid(voxels.shape[::-1], volume.spacing_mm, origin, (1, 0, 0, 0, 1, 0, 0, 0, -1))
    return Volume(voxels, grid)
