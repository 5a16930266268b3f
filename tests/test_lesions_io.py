"""Lesions: every format gives back the truth; every impossible lesion is refused."""

from __future__ import annotations

import csv
import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import make_phantom, oblique, torso_grid

from tlt.errors import InputError, UsageError
from tlt.io.lesions import (
    read_lesions,
    write_lesions_csv,
    write_mask,
    write_mrk_json,
    write_points_json,
    write_prompts_json,
)
from tlt.lesion import Lesion, Match, Status

CT = make_phantom(torso_grid((40, 36, 20), (8.0, 7.0, 12.0), oblique(), (5, -7, 300)))
TRUTH = [
    Lesion("A", (10.0, -20.0, 310.0), 12.5, "liver, dome"),
    Lesion("B", (-40.25, 30.5, 280.0), 6.0, ""),
    Lesion("B 2", (60.0, 5.0, 250.0), 20.0, "Knoten ä"),
]
HEADER = "lesion_id,x,y,z,coordinate_system,radius_mm,label\n"


def refused(path: Path, *words: str, points_in: str | None = None) -> None:
    with pytest.raises(InputError) as caught:
        read_lesions(path, CT, points_in)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(path))
    for word in words:
        assert word in message, message


def put(tmp_path: Path, name: str, content: object) -> Path:
    path = tmp_path / name
    path.write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")
    return path


def centers(lesions: list[Lesion]) -> np.ndarray:
    return np.array([lesion.center_mm for lesion in lesions])


# CSV


def test_csv_round_trip(tmp_path: Path) -> None:
    write_lesions_csv(TRUTH, tmp_path / "l.csv", tracking_uids=True)
    assert read_lesions(tmp_path / "l.csv", CT) == TRUTH
    write_lesions_csv(TRUTH, tmp_path / "l.csv")
    assert (tmp_path / "l.csv").read_text("utf-8").startswith(HEADER)
    read = read_lesions(tmp_path / "l.csv", CT)
    assert [(r.id, r.label, r.radius_mm) for r in read] == [
        (t.id, t.label, t.radius_mm) for t in TRUTH
    ]
    assert len({lesion.tracking_uid for lesion in read + TRUTH}) == 6


def test_csv_frames_name_the_same_point(tmp_path: Path) -> None:
    index = CT.grid.mm_to_index(TRUTH[0].center_mm)[::-1]
    path = put(
        tmp_path,
        "l.csv",
        f"\ufeff{HEADER}a,10,-20,310,LPS,5,\nb,-10,20,310, ras ,5,\n\n"
        f"c,{index[0]},{index[1]},{index[2]},Voxel,5,x\n",
    )
    assert np.allclose(centers(read_lesions(path, CT)), [TRUTH[0].center_mm] * 3)


def test_csv_needs_no_id_radius_or_label(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = put(tmp_path, "l.csv", "lesion_id,z,y,x,coordinate_system\nL1,300,0,0,LPS\n,300,1,0,LPS")
    with caplog.at_level(logging.WARNING):
        read = read_lesions(path, CT)
    assert [lesion.id for lesion in read] == ["L1", "L2"]
    assert [lesion.radius_mm for lesion in read] == [10, 10]
    assert "no radius for L1, L2; 10 mm is used" in caplog.text
    path = put(tmp_path, "l.csv", f"{HEADER}a,1,2,300,LPS\nb,1,2,300,LPS,7\nc,1,2,300,LPS,7,,,")
    assert [lesion.radius_mm for lesion in read_lesions(path, CT)] == [10, 7, 7]
    path = put(tmp_path, "l.csv", "x,y,z,coordinate_system,radius_mm\n1,2,300,LPS,\n3,4,300,LPS,4")
    assert [(r.id, r.radius_mm) for r in read_lesions(path, CT)] == [("L1", 10), ("L2", 4)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty"),
        ("  \n", "empty"),
        (HEADER, "no lesions"),
        ("lesion_id,x,y,z\na,1,2,300", "line 1: no column coordinate_system"),
        ("lesion_id;x;y;z\na;1;2;300", "separate by commas"),
        ("a,1,2,300,LPS,5,node", "line 1: no column x, y, z"),
        ("x,x,y,z,coordinate_system\n1,1,2,300,LPS", "occurs twice"),
        (f"{HEADER}a,1,2,300,,5,x", "line 2: coordinate_system is ''"),
        (f"{HEADER}a,1,2,300,MNI,5,x", "line 2: coordinate_system is 'MNI'"),
        (f"{HEADER}a,1,2,300", "line 2: coordinate_system is ''"),
        (f"{HEADER}a,1,2", "line 2: coordinate_system is ''"),
        (f"{HEADER}a,1,5,2,300,LPS,5,x", "line 2: 8 fields"),
        (f"{HEADER}b,1,2,300,LPS,5,x\na,one,2,300,LPS,5,x", "line 3: x is 'one'"),
        (f"{HEADER}a,,2,300,LPS,5,x", "line 2: x is ''"),
        (f"{HEADER}a,nan,2,300,LPS,5,x", "is not finite"),
        (f"{HEADER}a,1,inf,300,LPS,5,x", "is not finite"),
        (f"{HEADER}a,1,inf,300,RAS,5,x", "is not finite"),
        (f"{HEADER}a,1,nan,300,VOXEL,5,x", "is not finite"),
        (f"{HEADER}a,1,2,300,LPS,-5,x", "radius -5 mm"),
        (f"{HEADER}a,1,2,300,LPS,0,x", "radius 0 mm"),
        (f"{HEADER}a,1,2,300,LPS,nan,x", "radius nan mm"),
        (f"{HEADER}a,1,2,300,LPS,301,x", "radius 301 mm"),
        (f"{HEADER}a,1,2,300,LPS,big,x", "radius_mm is 'big'"),
        (f"{HEADER}a,1,2,300,LPS,5,x\na,1,2,301,LPS,5,x", "lesion id a occurs twice"),
        (f'{HEADER}a,1,2,300,LPS,5,"x', "line 2: not CSV"),
        (f"{HEADER}a,1,2,3000,LPS,5,x", "lesion a at LPS (1.0, 2.0, 3000.0)"),
        (f"{HEADER}a,1,2,-1,VOXEL,5,x", "indices start at 0"),
        (f"{HEADER}a,10,20,35,VOXEL,5,x", "x and z exchanged"),
    ],
)
def test_bad_csv(tmp_path: Path, text: str, words: str) -> None:
    refused(put(tmp_path, "l.csv", text), words)


def test_a_tracking_uid_is_that_of_one_lesion(tmp_path: Path) -> None:
    """Formats that keep lesions by it would lose one of two."""
    text = HEADER.strip() + ",tracking_uid\n"
    for uid in ("1.2.3", "no UID"):
        rows = "".join(f"{name},0,0,{z},LPS,8,,{uid}\n" for name, z in (("A", 290), ("B", 310)))
        refused(put(tmp_path, "l.csv", text + rows), "lesions A, B have one Tracking UID")
    rows = "A,0,0,290,LPS,8,,\nB,0,0,310,LPS,8,,\n"
    read = read_lesions(put(tmp_path, "l.csv", text + rows), CT)
    assert len({lesion.tracking_uid for lesion in read}) == 2


def test_a_text_that_is_no_uid_becomes_one_in_every_format(tmp_path: Path) -> None:
    text = HEADER.strip() + ",tracking_uid\nA,0,0,300,LPS,8,,lesion 7; x\n"
    (read,) = read_lesions(put(tmp_path, "l.csv", text), CT)
    assert read.tracking_uid.startswith("2.25.")
    write_mrk_json([replace(read, tracking_uid="lesion 7; x")], tmp_path / "l.mrk.json")
    write_lesions_csv([read], tmp_path / "m.csv", tracking_uids=True)
    for name in ("l.mrk.json", "m.csv"):
        (again,) = read_lesions(tmp_path / name, CT)
        assert again.tracking_uid == read.tracking_uid


def test_other_bad_files(tmp_path: Path) -> None:
    refused(tmp_path / "no.csv", "no such file")
    refused(put(tmp_path, "l.xlsx", "hello"), "not a lesion file that tlt reads", ".mrk.json")
    (tmp_path / "l.csv").write_bytes(b"\xff\xfe\x00x")
    refused(tmp_path / "l.csv", "UTF-8")


def test_flipped_frame_is_named(tmp_path: Path) -> None:
    ct = make_phantom(torso_grid(center_mm=(200, 150, 0)))
    x, y, z = ct.grid.center_mm
    path = put(tmp_path, "l.csv", f"{HEADER}a,{-x},{-y},{z},LPS,5,")
    with pytest.raises(InputError, match=r"outside the baseline \(x .* as RAS it would lie inside"):
        read_lesions(path, ct)


def test_half_a_voxel_beyond_the_outer_centre_is_inside(tmp_path: Path) -> None:
    assert len(read_lesions(put(tmp_path, "a.csv", f"{HEADER}a,-0.5,0,19.5,VOXEL,5,"), CT)) == 1
    refused(put(tmp_path, "b.csv", f"{HEADER}a,-0.51,0,19.5,VOXEL,5,"), "outside the baseline")


# 3D Slicer


def markup(kind: str, points: list[dict], system: object = "LPS", **more: object) -> dict:
    body = {"type": kind, "coordinateSystem": system, "controlPoints": points, **more}
    return {"markups": [{k: v for k, v in body.items() if v is not None}]}


def test_mrk_round_trip(tmp_path: Path) -> None:
    write_mrk_json(TRUTH, tmp_path / "l.mrk.json")
    assert read_lesions(tmp_path / "l.mrk.json", CT) == TRUTH
    content = json.loads((tmp_path / "l.mrk.json").read_text("utf-8"))["markups"][0]
    assert content["coordinateSystem"] == "LPS"
    assert {point["positionStatus"] for point in content["controlPoints"]} == {"defined"}


@pytest.mark.parametrize(("system", "sign"), [("LPS", 1), ("1", 1), (1, 1), ("RAS", -1), ("0", -1)])
def test_mrk_frames(tmp_path: Path, system: object, sign: int) -> None:
    points = [
        {"label": "F-1", "description": "a node", "position": [sign * 10, sign * -20, 310]},
        {"label": "F-2", "positionStatus": "undefined", "position": [0, 0, 0]},
    ]
    (read,) = read_lesions(put(tmp_path, "l.mrk.json", markup("Fiducial", points, system)), CT)
    assert read.center_mm == TRUTH[0].center_mm
    assert (read.id, read.label, read.radius_mm) == ("F-1", "a node", 10)


def test_mrk_line_is_the_long_axis(tmp_path: Path) -> None:
    points = [
        {"label": f"node-{i}", "position": p} for i, p in ((1, [0, 0, 300]), (2, [6, 8, 300]))
    ]
    (read,) = read_lesions(put(tmp_path, "l.mrk.json", markup("Line", points)), CT)
    assert (read.id, read.center_mm, read.radius_mm) == ("node", (3, 4, 300), 5)
    content = markup("Line", points, "RAS", name="target")
    (read,) = read_lesions(put(tmp_path, "l.mrk.json", content), CT)
    assert (read.id, read.center_mm, read.radius_mm) == ("target", (-3, -4, 300), 5)
    refused(put(tmp_path, "l.mrk.json", markup("Line", points[:1])), "a line of 1 points")


def test_mrk_roi_is_a_box(tmp_path: Path) -> None:
    roi = {"center": [-10, 20, 310], "size": [30, 20, 80]}
    content = markup("ROI", [{"label": "R-1", "position": [0, 0, 0]}], "RAS", **roi)
    (read,) = read_lesions(put(tmp_path, "l.mrk.json", content), CT)
    assert (read.id, read.center_mm, read.radius_mm) == ("R", TRUTH[0].center_mm, 15)
    content["markups"][0]["orientation"] = [0, 0, 1, 0, 1, 0, 1, 0, 0]
    (read,) = read_lesions(put(tmp_path, "l.mrk.json", content), CT)
    assert read.radius_mm == 40  # the box lies down: its long side is in the axial plane


POINT = {"label": "a", "position": [0, 0, 300]}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{\n  oops", "line 2: not JSON"),
        ("[1, 2]", "unknown kind"),
        ({"hello": 1}, "unknown kind"),
        ({}, "no lesions"),
        ({"markups": []}, "no lesions"),
        (markup("Fiducial", []), "no lesions"),
        (markup("Fiducial", [POINT], None), "coordinateSystem is missing"),
        (markup("Fiducial", [POINT], "IJK"), "coordinateSystem is 'IJK'"),
        (markup("Fiducial", [POINT], coordinateUnits="cm"), "coordinateUnits is 'cm'"),
        (markup("Curve", [POINT]), "type 'Curve' is no lesion"),
        (markup("Fiducial", [POINT, POINT]), "id a occurs twice"),
        (markup("Fiducial", [{"label": "a", "position": [0, 300]}]), "list of 3 numbers"),
        (markup("Fiducial", [{"label": "a"}]), "control point 1: position is None"),
        (markup("Fiducial", [{**POINT, "position": [0, None, 300]}]), "not a number"),
        (markup("Fiducial", [{**POINT, "position": [0, float("nan"), 300]}]), "is not finite"),
        (markup("Fiducial", [{**POINT, "description": "radius_mm=-1"}]), "radius -1 mm"),
        (markup("Line", [POINT, {**POINT, "label": "b"}]), "radius 0 mm"),
        (markup("ROI", [POINT]), "size is None"),
        ({"markups": ["x"]}, "markup 1 is not an object"),
        (markup("Fiducial", ["x"]), "controlPoints is not a list"),  # type: ignore[list-item]
        ('{"1": {"point": [0, 0, 0]}, "1": {"point": [1, 1, 1]}}', "'1' occurs twice"),
        ({"1": {"box": [0, 1, 2]}}, "list of 6 numbers"),
        ({"1": {"box": [5, 5, 2, 4, 2, 4]}}, "is empty"),
        ({"1": {"point": ["a", 0, 0]}}, "lesion 1: point is 'a'"),
    ],
)
def test_bad_json(tmp_path: Path, content: object, words: str) -> None:
    refused(put(tmp_path, "l.json", content), words)


# LesionLocator and grand-challenge


def test_prompts(tmp_path: Path) -> None:
    write_prompts_json(TRUTH, CT.grid, tmp_path / "l.json")
    read = read_lesions(tmp_path / "l.json", CT)
    assert np.allclose(centers(read), centers(TRUTH), atol=1e-2)
    assert [lesion.id for lesion in read] == ["1", "2", "3"]
    path = put(tmp_path, "l.json", {"3": {"point": ["7", "8", "9.5"]}})
    (lesion,) = read_lesions(path, CT)
    assert np.allclose(lesion.center_mm, CT.grid.index_to_mm((7, 8, 9.5)))


def test_box_prompt_holds_its_voxels(tmp_path: Path) -> None:
    """The half-open box of the voxels z 4-6, y 10-15, x 20-23."""
    path = put(tmp_path, "l.json", {"1": {"box": [4, 7, 10, 16, "20", 24]}})
    (lesion,) = read_lesions(path, CT)
    assert np.allclose(lesion.center_mm, CT.grid.index_to_mm((5, 12.5, 21.5)))
    assert lesion.radius_mm == max(6 * 7.0, 4 * 8.0) / 2


def test_grand_challenge_points(tmp_path: Path) -> None:
    write_points_json(TRUTH, tmp_path / "l.json")
    read = read_lesions(tmp_path / "l.json", CT, "lps")
    assert centers(read).tolist() == centers(TRUTH).tolist()
    assert [lesion.id for lesion in read] == ["A", "B", "B 2"]
    path = put(tmp_path, "v.json", {"type": "Multiple points", "points": [{"point": [9, 8, 7]}]})
    (lesion,) = read_lesions(path, CT, "voxel")
    assert np.allclose(lesion.center_mm, CT.grid.index_to_mm((7, 8, 9)))
    assert lesion.id == "L1"
    refused(tmp_path / "l.json", "--points-in")
    with pytest.raises(UsageError):
        read_lesions(path, CT, "ras")


# Matches


def test_matches_are_written_where_they_were_found(tmp_path: Path) -> None:
    lesions = [
        Lesion(str(i), (0.0, 0.0, 300.0), 10.0, tracking_uid=f"2.25.{i}") for i in (1, 2, 3, 4)
    ]
    at = (10.0, -20.0, 310.0)
    matches = [
        Match(lesions[0], Status.NOT_FOUND, at, 0.1, at),
        Match(lesions[1], Status.OUTSIDE_FOV, None, 0.0, at),
        Match(lesions[2], Status.FOUND, at, 0.9, at, radius_mm=30.0),
        Match(lesions[3], Status.LOW_CONFIDENCE, (50.0, 0.0, 250.0), 0.4, at),
    ]
    write_mrk_json(matches, tmp_path / "l.mrk.json")
    read = read_lesions(tmp_path / "l.mrk.json", CT)
    assert [(r.id, r.radius_mm, r.label) for r in read] == [
        ("3", 30, ""), ("4", 10, "")
    ]  # fmt: skip
    assert "label=(low confidence)" in (tmp_path / "l.mrk.json").read_text()
    assert read[0].tracking_uid == "2.25.3"
    write_mask(matches, CT.grid, tmp_path / "m.nii.gz")
    assert [r.id for r in read_lesions(tmp_path / "m.nii.gz", CT)] == ["3", "4"]
    write_lesions_csv(matches, tmp_path / "l.csv")
    with (tmp_path / "l.csv").open() as file:
        assert [row["lesion_id"] for row in csv.DictReader(file)] == ["3", "4"]
