"""Lists of the lesions that CTs are known to hold."""

from __future__ import annotations

from pathlib import Path

import pytest

from tlt.data.known import known_lesions
from tlt.errors import InputError

HEAD = "volume,lesion_id,x,y,z,coordinate_system,radius_mm,label"


def listed(folder: Path, *lines: str) -> None:
    (folder / "lesions.csv").write_text("\n".join([*lines, ""]))


def test_lesions_are_known_by_ct_in_lps(tmp_path: Path) -> None:
    assert known_lesions(tmp_path / "train") == {}
    listed(tmp_path, HEAD, "a,L1,1,2,3,LPS,4.5,node", "b,L2,1,2,3,RAS,6,", "a,L3,0,0,9,LPS,5,x")
    found = known_lesions(tmp_path / "train")  # the list lies above the folder
    assert {name: [lesion.id for lesion in own] for name, own in found.items()} == {
        "a": ["L1", "L3"],
        "b": ["L2"],
    }
    assert (found["a"][0].center_mm, found["a"][0].radius_mm) == ((1.0, 2.0, 3.0), 4.5)
    assert found["b"][0].center_mm == (-1.0, -2.0, 3.0)


def test_a_list_of_something_else_is_left_alone(tmp_path: Path) -> None:
    listed(tmp_path, HEAD.removeprefix("volume,"), "L1,1,2,3,LPS,4.5,node")
    assert known_lesions(tmp_path) == {}


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("a,L1,1,2,3,VOXEL,4,", "line 2: coordinate_system is 'VOXEL'; write LPS or RAS"),
        ("a,L1,1,2,three,LPS,4,", "line 2: z is 'three', not a number"),
        ("a,L1,1,2,3,LPS,,", "line 2: radius_mm is '', not a number"),
        ("a,L1,1,2,3,LPS,-4,", "line 2: a place or radius that is none"),
        ("a,L1,1,2", "line 2: coordinate_system is ''"),
    ],
)
def test_lines_that_cannot_be_read(tmp_path: Path, line: str, told: str) -> None:
    listed(tmp_path, HEAD, line)
    with pytest.raises(InputError, match=told):
        known_lesions(tmp_path)
