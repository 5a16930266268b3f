"""The reader's entries: JSON and CSV say the same, and what cannot be meant is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tlt.errors import InputError
from tlt.lesion import Role
from tlt.recist.entries import Entries, entries_schema, read_entries, to_json

WHOLE = {
    "schema_version": 1,
    "reader": "AB",
    "baseline_date": "2025-01-01",
    "lesions": {
        "A": {"role": "target", "site": "liver, dome", "diameter_mm": 31.5},
        "N": {"role": "non_target", "nodal": True},
    },
    "time_points": [
        {
            "followup": 1,
            "date": "2025-02-26",
            "day": 56,
            "lesions": {
                "A": {"parts_mm": [12.0, 7.5], "note": "two parts"},
                "N": {"status": "absent"},
            },
            "new_lesions": [{"id": "X", "site": "bone", "certainty": "equivocal"}],
        },
        {
            "followup": 2,
            "day": 120,
            "lesions": {
                "A": {"status": "merged", "merged_into": "B"},
                "N": {"diameter_mm": 11.0, "status": "unequivocal_progression"},
            },
        },
    ],
}
CSV = """followup,lesion_id,role,site,nodal,diameter_mm,status,merged_into,day,date,note
0,A,target,"liver, dome",,31.5,,,,2025-01-01,
0,N,non_target,,yes,,,,,,
1,A,,,,12.0+7.5,,,56,2025-02-26,two parts
1,N,,,,,absent,,,,
1,X,,bone,,,new_equivocal,,,,

2,,,,,,,,120,,
2,A,,,,,merged,B,,,
2,N,,,,11.0,unequivocal_progression,,,,
"""


def put(tmp_path, content, name="entries.json"):
    path = tmp_path / name
    path.write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")
    return path


def refused(path, *words):
    with pytest.raises(InputError) as caught:
        read_entries(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    for word in words:
        assert word in message, message


def test_json_and_csv_say_the_same(tmp_path):
    from_json = read_entries(put(tmp_path, WHOLE))
    from_csv = read_entries(put(tmp_path, CSV, "entries.csv").rename(tmp_path / "e.CSV"))
    from_csv = from_csv.model_copy(update={"reader": "AB"})
    assert from_csv == from_json
    assert from_json.lesions["A"].role is Role.TARGET
    assert from_json.days() == {1: 56, 2: 120}
    assert from_json.at(7).lesions == {}


def test_entries_are_written_and_read_again(tmp_path):
    entries = Entries.model_validate(WHOLE)
    assert read_entries(put(tmp_path, to_json(entries))) == entries
    assert read_entries(put(tmp_path, "{}")) == Entries()


def test_a_file_of_a_windows_editor_is_read(tmp_path):
    path = tmp_path / "entries.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(WHOLE).encode())
    assert read_entries(path) == Entries.model_validate(WHOLE)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("not json", ("JSON",)),
        ({"lesion": {}}, ("lesion", "no such field", "--schema")),
        ({"lesions": {"A": {"role": "main"}}}, ("lesions.A.role", "target")),
        ({"lesions": {"A": {"diameter_mm": -1}}}, ("lesions.A.diameter_mm", "greater than 0")),
        ({"lesions": {"A": {"diameter_mm": 5000}}}, ("1000",)),
        ({"schema_version": 2}, ("schema_version",)),
        ({"time_points": [{"followup": 0}]}, ("time_points.0.followup",)),
        ({"time_points": [{"followup": 1}, {"followup": 1}]}, ("follow-up 1 occurs twice",)),
        ({"time_points": [{"followup": 1, "date": "2025-01-01"}]}, ("no baseline_date",)),
        (
            {"time_points": [{"followup": 1, "day": 60}, {"followup": 2, "day": 60}]},
            ("follow-up 2", "day 60"),
        ),
        (
            {
                "baseline_date": "2025-01-01",
                "time_points": [{"followup": 1, "day": 9, "date": "2025-01-09"}],
            },
            ("day 9", "day 8"),
        ),
        (
            {"baseline_date": "2025-01-02", "time_points": [{"followup": 1, "date": "2025-01-01"}]},
            ("before the baseline",),
        ),
        (
            {"time_points": [{"followup": 1, "lesions": {"A": {}}}]},
            ("time_points.0.lesions.A", "give one of"),
        ),
        (
            {
                "time_points": [
                    {"followup": 1, "lesions": {"A": {"diameter_mm": 9, "status": "absent"}}}
                ]
            },
            ("give one of",),
        ),
        (
            {"time_points": [{"followup": 1, "lesions": {"A": {"status": "merged"}}}]},
            ("merged_into",),
        ),
        (
            {
                "time_points": [
                    {
                        "followup": 1,
                        "new_lesions": [
                            {"id": "X", "certainty": "equivocal"},
                            {"id": "X", "certainty": "absent"},
                        ],
                    }
                ]
            },
            ("new lesion twice",),
        ),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path, content, words):
    refused(put(tmp_path, content), *words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ("no column followup",)),
        ("followup,lesion\n1,A\n", ("no column lesion_id", "followup,lesion_id,role")),
        ("followup,lesion_id,size\n1,A,9\n", ("unknown column 'size'", "diameter_mm")),
        ("lesion_id\nA\n", ("no column followup",)),
        ("followup,lesion_id\nfirst,A\n", ("line 2", "0 (baseline)")),
        ("followup,lesion_id,status\n1,A,absent\n1,A,present\n", ("line 3", "A occurs twice")),
        ("followup,lesion_id,status\n1,,absent\n", ("line 2", "no lesion_id")),
        ("followup,lesion_id,status\n1,A,absent,more\n", ("line 2", "more fields")),
        ("followup,lesion_id,day\n1,A,56\n1,B,57\n", ("line 3", "another day")),
        ("followup,lesion_id,day\n0,A,3\n", ("line 2", "day 0")),
        ("followup,lesion_id,diameter_mm\n1,A,large\n", ("diameter_mm", "number")),
        ("followup,lesion_id,status\n1,A,gone\n", ("status", "absent")),
        ("followup,lesion_id,status\n1,X,new_maybe\n", ("certainty", "equivocal")),
    ],
)
def test_what_cannot_be_meant_in_csv_is_refused(tmp_path, text, words):
    refused(put(tmp_path, text, "entries.csv"), *words)


def test_files_that_cannot_be_read(tmp_path):
    refused(tmp_path / "none.json", "No such file")
    path = tmp_path / "latin.csv"
    path.write_bytes("followup,lesion_id,note\n1,A,größer\n".encode("latin-1"))
    refused(path, "UTF-8")


def test_the_schema_knows_every_field():
    text = json.dumps(entries_schema())
    for word in ("merged_into", "confirmation_days", "unequivocal_progression", "too_small"):
        assert word in text


def test_the_examples_of_the_documentation_are_entries(tmp_path):
    page = (Path(__file__).parents[1] / "docs" / "recist.md").read_text("utf-8")
    example = re.search(r"```json\n(.*?)```", page, re.DOTALL)[1]
    assert read_entries(put(tmp_path, example)).days() == {1: 56, 2: 112}
    table = re.search(r"```\n(followup,.*?)```", page, re.DOTALL)[1]
    entries = read_entries(put(tmp_path, table, "entries.csv"))
    assert entries.at(1).new_lesions[0].site == "left adrenal"
