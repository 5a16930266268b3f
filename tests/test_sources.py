"""Where the images of a result lie: found again, for the owner only."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import make_phantom, torso_grid, write_dicom_series
from fakes import LESIONS, ball_volume

from tlt.io.images import load_volume, save_volume
from tlt.io.sources import SOURCES, Sources, read_sources, write_sources


def test_a_file_and_a_series_are_found_again_from_anywhere(tmp_path, monkeypatch):
    save_volume(ball_volume(LESIONS), tmp_path / "bl.nii.gz")
    for series in ("1", "2"):  # a folder of two series: only the series' number tells them apart
        volume = make_phantom(torso_grid((40, 32, 30 + int(series))))
        uid = write_dicom_series(volume, tmp_path / "fu", series=series)
    monkeypatch.chdir(tmp_path)
    baseline, followup = load_volume("bl.nii.gz"), load_volume(f"fu#{uid}")
    write_sources(tmp_path, baseline, [followup], ("json", "csv"))
    monkeypatch.chdir("/")
    told = read_sources(tmp_path)
    assert told.formats == ("json", "csv")
    np.testing.assert_array_equal(load_volume(told.baseline).voxels, baseline.voxels)
    assert load_volume(told.followups[0]).series_uid == uid
    assert (tmp_path / SOURCES).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("content", [None, "", "[]", '{"baseline": 1}', "no json"])
def test_without_a_usable_word_nothing_is_known(tmp_path, content):
    if content is not None:
        (tmp_path / SOURCES).write_text(content)
    assert read_sources(tmp_path) == Sources()
