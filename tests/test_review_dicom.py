"""What the page sends to a PACS: whose reading it is, and the voxels of what was measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from marks import centroid
from reviewed import make_folder, truth_mm
from test_review_api import decide
from test_review_api import page as page

from tlt.cli.track import FORMATS
from tlt.io.images import load_volume
from tlt.io.lesions import read_lesions, read_with_extents
from tlt.io.results import read_json
from tlt.io.sources import read_sources
from tlt.lesion import Status
from tlt.pacs.reports import marks_of
from tlt.review.outlines import Outlines
from tlt.review.service import Review

ALL = ["dicom-sr", "dicom-seg", "dicom-rtstruct", "nifti"]


@pytest.fixture
def review(tmp_path: Path):
    folder = make_folder(tmp_path, dicom=True)
    outlines = Outlines(lambda: opened.shelf.stack(0).volume)
    opened = Review(folder, formats=FORMATS, measure=outlines.size)
    opened.shelf.stack(1)
    yield opened
    opened.close()


def export(page, **more):
    answer = page.post("/api/export", json={"formats": ALL, **more})
    assert answer.status_code == 200, answer.text


def observers(path: Path) -> list[str]:
    return [str(i.PersonName) for i in pydicom.dcmread(path).ContentSequence if "PersonName" in i]


def test_a_reading_counts_as_marked_by_its_reader_and_only_then(review, page):
    export(page)
    assert observers(review.folder / "followup_sr.dcm") == []
    assert marks_of(review.folder / "followup_sr.dcm") is None
    decide(page, "moved", "L2", by="Ann", value=list(truth_mm("L2")))
    export(page)
    assert observers(review.folder / "followup_sr.dcm") == []  # L1 is open; L3 is out of view
    assert marks_of(review.folder / "followup_sr.dcm") is None
    decide(page, "accepted", "L1", by="Bob^Jr")
    export(page)
    assert observers(review.folder / "followup_sr.dcm") == ["Bob Jr^"]
    assert marks_of(review.folder / "followup_sr.dcm") is not None
    assert observers(review.folder / "baseline_sr.dcm") == []
    followup = load_volume(review.folder.parent / "fu")
    read = {one.id: one for one in read_lesions(review.folder / "followup_sr.dcm", followup)}
    assert np.allclose(read["L2"].center_mm, truth_mm("L2"), atol=0.01)


def test_what_was_measured_where_the_reader_clicked_has_its_voxels_in_every_format(review, page):
    decide(page, "moved", "L2", value=list(truth_mm("L2")))
    size = read_json(review.folder / "result.json").lesions[1].followups[0].size
    assert not size.doubtful
    export(page)
    followup = load_volume(review.folder.parent / "fu")
    for name in ("followup_seg.dcm", "followup_rtstruct.dcm", "followup_mask.nii.gz"):
        read = read_with_extents(review.folder / name, followup)
        extent = next(e for one, e in read if one.id in ("L2", "2"))
        voxel_mm3 = np.prod(followup.grid.spacing_mm)
        assert np.allclose(centroid(extent), truth_mm("L2"), atol=1.0), name
        assert (extent.voxels > 0).sum() * voxel_mm3 == pytest.approx(size.volume_mm3, rel=0.1)


def test_the_day_is_offered_by_the_dates_of_the_images_and_no_date_is_told(review, page):
    review.shelf.stack(0)
    told = page.get("/api/state")
    assert told.json()["recist"]["days_told"] == [56]
    assert told.json()["recist"]["days"] == [None]  # offered, not entered
    assert "20240226" not in told.text


def test_the_profile_of_the_sr_is_chosen_and_remembered(review, page):
    told = page.get("/api/state").json()["exports"]
    assert (told["sr_profile"], told["sr_profiles"]) == ("plain", ["plain", "ohif"])
    export(page, sr_profile="ohif")
    assert read_sources(review.folder).sr_profile == "ohif"
    decide(page, "lost", "L1")
    export(page)  # the one that the folder has
    assert b"Cornerstone3DTools" in (review.folder / "followup_sr.dcm").read_bytes()
    export(page, sr_profile="plain")
    assert b"Cornerstone3DTools" not in (review.folder / "followup_sr.dcm").read_bytes()
    wrong = page.post("/api/export", json={"formats": ALL, "sr_profile": "fancy"})
    assert wrong.status_code == 422
    assert "plain, ohif" in wrong.json()["error"]
    assert review.result().lesions[0].followups[0].status is Status.NOT_FOUND
