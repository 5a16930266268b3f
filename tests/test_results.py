"""result.json and matches.csv: what goes in comes out, and nothing that names a patient."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from fakes import LESIONS, ball_volume, make_match, make_pair
from pydantic import ValidationError

from tlt.geometry import AffineTransform
from tlt.io.matches_csv import CSV_COLUMNS, to_csv, write_csv
from tlt.io.results import (
    Review,
    Software,
    build_result,
    read_json,
    result_schema,
    size_facts,
    size_of,
    to_json,
    write_json,
)
from tlt.lesion import Axis, Size, Status

SOFTWARE = Software(version="1.2.3", tracker="tlt", model="tlt-ct", weights_sha256="ab" * 32)
STATUSES = (Status.FOUND, Status.NOT_FOUND, Status.OUTSIDE_FOV)


@pytest.fixture
def result():
    baseline = ball_volume(LESIONS, path="/data/DOE^JANE/baseline.nii.gz", series_uid="1.2.3")
    followup = ball_volume(LESIONS, path="/data/DOE^JANE/visit2/")
    matches = [
        make_match(lesion, status, confidence=c, radius_mm=r)
        for lesion, status, c, r in zip(
            LESIONS, STATUSES, (0.9, 0.2, 0.0), (7.5, None, None), strict=True
        )
    ]
    return build_result(baseline, [followup], [make_pair(matches)], SOFTWARE, ["a remark"])


def test_json_holds_exactly_the_fields_of_the_contract(result):
    data = json.loads(to_json(result))
    assert list(data) == [
        "schema_version", "coordinate_system", "software", "baseline", "followups", "lesions",
        "warnings",
    ]  # fmt: skip
    assert data["schema_version"] == 1
    assert data["coordinate_system"] == "LPS"
    assert data["software"] == {
        "name": "tlt",
        "version": "1.2.3",
        "tracker": "tlt",
        "model": "tlt-ct",
        "weights_sha256": "ab" * 32,
    }
    assert data["baseline"] == {
        "path": "baseline.nii.gz",
        "size_xyz": [60, 50, 40],
        "spacing_mm": [2.0, 2.0, 3.0],
        "series_uid": "1.2.3",
        "time_point": 0,
    }
    assert data["followups"] == [
        {
            "path": "visit2",
            "size_xyz": [60, 50, 40],
            "spacing_mm": [2.0, 2.0, 3.0],
            "series_uid": None,
            "time_point": 1,
            "registration": {
                "method": "fake",
                "seconds": 0.25,
                "similarity": 0.8765,
                "ok": True,
                "matrix": [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]],
            },
            "seconds": 1.5,
        }
    ]
    assert data["warnings"] == ["a remark"]


def test_json_holds_each_lesion_with_its_distance_from_the_prior(result):
    first = json.loads(to_json(result))["lesions"][0]
    assert first == {
        "id": "L1",
        "label": "nodule",
        "tracking_uid": LESIONS[0].tracking_uid,
        "site": "",
        "nodal": False,
        "role": "undecided",
        "baseline": {"center_mm": [-20.0, -10.0, -50.0], "radius_mm": 8.0, "size": None},
        "followups": [
            {
                "status": "found",
                "center_mm": [-16.0, -16.0, -41.0],
                "radius_mm": 7.5,
                "confidence": 0.9,
                "prior_center_mm": [-20.0, -10.0, -50.0],
                "prior_distance_mm": round(math.sqrt(4**2 + 6**2 + 9**2), 3),
                "size": None,
                "size_note": "",
                "review": None,
            }
        ],
    }


def test_a_lost_lesion_keeps_its_estimate_and_one_outside_has_none(result):
    lost, outside = (lesion.followups[0] for lesion in result.lesions[1:])
    assert lost.status is Status.NOT_FOUND
    assert lost.center_mm is not None
    assert outside.status is Status.OUTSIDE_FOV
    assert outside.center_mm is None
    assert outside.prior_distance_mm is None


def test_written_and_read_again_it_is_the_same(result, tmp_path):
    write_json(result, tmp_path / "result.json")
    assert read_json(tmp_path / "result.json") == result
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


def test_a_reader_ignores_fields_of_a_later_release(result):
    data = json.loads(to_json(result))
    data["lesions"][0]["volume_mm3"] = 1.0
    assert type(result).model_validate(data) == result


@pytest.mark.parametrize(
    ("field", "value"),
    [("confidence", 1.2), ("confidence", math.nan), ("center_mm", None), ("status", "lost")],
)
def test_impossible_values_are_refused(result, field, value):
    data = json.loads(to_json(result))
    data["lesions"][0]["followups"][0][field] = value
    with pytest.raises(ValidationError):
        type(result).model_validate(data)


def test_a_similarity_that_could_not_be_measured_is_null():
    volume = ball_volume(LESIONS)
    pair = make_pair([make_match(LESIONS[0])], similarity=math.nan)
    data = json.loads(to_json(build_result(volume, [volume], [pair], SOFTWARE)))
    assert data["followups"][0]["registration"]["similarity"] is None


def test_paths_are_cut_to_their_last_part_unless_identifiers_are_wanted(result):
    assert "DOE" not in to_json(result) + to_csv(result)
    volume = ball_volume(LESIONS, path="/data/DOE^JANE/bl.nii.gz")
    pair = make_pair([make_match(LESIONS[0])])
    named = build_result(volume, [volume], [pair], SOFTWARE, with_identifiers=True)
    assert named.baseline.path == "/data/DOE^JANE/bl.nii.gz"


def test_followups_that_are_called_the_same_keep_the_folder_that_tells_them_apart():
    paths = ["/data/DOE^JANE/2023/ct", "/data/DOE^JANE/2024/ct", "/data/DOE^JANE/2024/late"]
    volumes = [ball_volume(LESIONS, path=path) for path in paths]
    pairs = [make_pair([make_match(LESIONS[0])])] * 3
    told = build_result(volumes[0], volumes, pairs, SOFTWARE)
    assert [image.path for image in told.followups] == ["2023/ct", "2024/ct", "late"]
    assert told.baseline.path == "ct"
    same = build_result(volumes[0], volumes[:1] * 2, pairs[:2], SOFTWARE)
    assert [image.path for image in same.followups] == ["ct", "ct"]  # 2023 would tell nothing


def test_matches_of_different_lesions_are_refused():
    volume = ball_volume(LESIONS)
    pairs = [make_pair([make_match(LESIONS[0])]), make_pair([make_match(LESIONS[1])])]
    with pytest.raises(ValueError, match="different lesions"):
        build_result(volume, [volume, volume], pairs, SOFTWARE)


def test_csv_ends_with_what_a_reader_decided(result):
    at = "2025-01-02T03:04:05.678+00:00"
    result.lesions[1].followups[0].review = Review(decision="lost", by="Ann, MD", at=at)
    first, second, _ = csv.DictReader(to_csv(result).splitlines())
    columns = CSV_COLUMNS[-3:]
    assert columns == ("decision", "reviewed_by", "reviewed_at")
    assert [second[name] for name in columns] == ["lost", "Ann, MD", at]
    assert [first[name] for name in columns] == ["", "", ""]


def test_csv_has_a_row_a_lesion_and_starts_like_a_lesion_file(result, tmp_path):
    write_csv(result, tmp_path / "matches.csv")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "matches.csv").read_text())))
    assert CSV_COLUMNS[:7] == (
        "lesion_id", "x", "y", "z", "coordinate_system", "radius_mm", "label",
    )  # fmt: skip
    assert [row["lesion_id"] for row in rows] == ["L1", "L2", "L3"]
    assert [row["status"] for row in rows] == [status.value for status in STATUSES]
    assert (rows[0]["x"], rows[0]["y"], rows[0]["z"]) == ("-16.0", "-16.0", "-41.0")
    assert rows[0]["radius_mm"] == "7.5"
    assert (rows[2]["x"], rows[2]["radius_mm"]) == ("", "")
    assert {row["coordinate_system"] for row in rows} == {"LPS"}


def test_schema_asks_for_every_field():
    schema = result_schema()
    assert schema["$schema"].endswith("2020-12/schema")
    assert set(schema["required"]) == set(schema["properties"])
    for part in schema["$defs"].values():
        assert set(part.get("required", ())) == set(part.get("properties", ()))
    json.dumps(schema)


def test_sizes_come_back_from_the_result() -> None:
    size = Size(Axis((0, 0, 5), (30, 0, 5)), Axis((15, -10, 5), (15, 10, 5)), 6283.2, note="")
    facts = size_facts(size)
    assert (facts.long_mm, facts.short_mm) == (30, 20)
    assert size_of(facts) == size
    only_long = Size(Axis((0, 0, 5), (3, 4, 5)), by_reader=True, doubtful=True, note="cut off")
    assert size_of(size_facts(only_long)) == only_long


def test_the_registration_is_told_as_a_matrix_that_carries_points():
    turn = AffineTransform(np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1.05]]), np.ones(3) * 7)
    volume, pair = ball_volume(LESIONS), make_pair([make_match(LESIONS[0])])
    pair = replace(pair, registration=replace(pair.registration, baseline_to_followup=turn))
    told = build_result(volume, [volume], [pair], SOFTWARE).followups[0].registration.matrix
    point = np.array([100.0, -250.0, 1500.0])
    carried = np.array(told) @ [*point, 1.0]
    np.testing.assert_allclose(carried, [*turn(point), 1.0], atol=1e-3)
