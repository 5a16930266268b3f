"""What people get: table, page, plot and the command."""

from __future__ import annotations

import csv
import io
import json
from datetime import datetime, timezone
from html.parser import HTMLParser

import numpy as np
import pytest
from conftest import make_phantom, torso_grid
from PIL import Image
from recist_cases import entries, found, gone, lesion, make_result, size

from tlt.cli.main import main
from tlt.errors import InputError
from tlt.geometry import Grid
from tlt.io.lesions import read_lesions, write_lesions_csv
from tlt.io.lesions_csv import HEADER, read_csv
from tlt.io.results import write_json
from tlt.lesion import Lesion, Role
from tlt.recist import assess, render_page, render_table, rules, to_csv, to_json
from tlt.recist.entries import read_entries
from tlt.recist.plot import draw_trajectories
from tlt.recist.tables import CSV_COLUMNS, cell, legend, recist_schema

CREATED = datetime(2025, 1, 2, 3, 4, tzinfo=timezone.utc)
NEW = {"id": "X1", "site": "bone", "certainty": "unequivocal", "note": "12 mm <L3>"}


def study():
    """A result in which a lesion goes each way, and its assessment with entries."""
    result = make_result(
        lesion("A", 40, 30, 20, 25, site="liver"),
        lesion("B", 25, found(12, doubtful=True), gone(), found(9), site="lung & pleura"),
        lesion("C", 20, 20, 20, found(status="outside_fov"), site="adrenal"),
        lesion("N", 16, 12, 9, 9, site="axilla", nodal=True),
        lesion("D", 9, 9, found(status="not_found"), 9, role=Role.NON_TARGET, site="bone"),
        lesion("P", 8, 8, 8, 8, role=Role.UNDECIDED, nodal=True),
    )
    given = entries(
        {"day": 56}, {"day": 112, "lesions": {"C": {"status": "too_small"}}},
        {"day": 168, "new_lesions": [NEW], "note": "other phase"}, reader="AB",
    )  # fmt: skip
    return result, given


@pytest.fixture(scope="module")
def assessment():
    return assess(*study())


@pytest.fixture(scope="module")
def page(assessment):
    return render_page(assessment, CREATED)


class Page(HTMLParser):
    """Cells of the main table by row; fails on tags that do not close."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.open, self.sources, self.text = [], [], [], ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        if tag in ("img", "source"):
            self.sources.append(attributes.get("src") or attributes.get("srcset"))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th") and self.rows:
            self.rows[-1].append("")
        if tag not in {"img", "source", "meta", "br"}:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" in self.open:
            return
        self.text += data
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data

    def row(self, name):
        return next(row for row in self.rows if row and row[0].strip().startswith(name))


def test_the_table_shows_diameters_sums_and_responses(page):
    table = Page(page)
    liver = [cell.strip() for cell in table.row("A liver")]
    assert liver == ["A liver", "40.0a", "30.0", "20.0", "25.0"]
    assert [c.strip() for c in table.row("B lung")[2:]] == ["12.0a d", "0.0g", "to confirmu"]
    assert [c.strip() for c in table.row("C adrenal")[2:]] == ["20.0", "5.0s", "not in viewo"]
    assert [c.strip() for c in table.row("Sum")] == [
        "Sum of diameters", "101.0", "74.0", "34.0", "(34.0)",
    ]  # fmt: skip
    assert [c.strip() for c in table.row("from baseline")[2:]] == ["-26.7 %", "-66.3 %", "-"]
    assert [c.strip() for c in table.row("Response of targets")[2:]] == ["SD", "PR", "NE"]
    others = [cell.strip() for cell in table.row("Response of non-")[2:]]
    assert others == ["Non-CR/Non-PD", "NE", "Non-CR/Non-PD"]
    assert [c.strip() for c in table.row("Overall")[2:]] == ["SD?", "PR?", "PD"]


def test_every_decision_stands_beside_its_rule(page, assessment):
    text = Page(page).text
    for point in assessment.time_points:
        for decided in (point.target, point.non_target, point.overall):
            assert decided.rule.text in text
            assert decided.rule.cited in text
            assert decided.because in text
    for _, rule in legend(assessment):
        assert rule.text in text
    assert "For research only. This is not a medical device" in text
    assert "2025-01-02 03:04 UTC" in text
    assert "entries by AB" in text


def test_the_legend_has_the_marks_that_occur_and_no_others(assessment):
    assert [mark for mark, _ in legend(assessment)] == ["a", "d", "s", "g", "o", "u"]
    assert [mark for mark, _ in legend(assess(make_result(lesion("A", 20, 12))))] == ["a"]


def test_the_page_needs_nothing_else_and_is_safe_with_any_text(page):
    table = Page(page)
    assert len(table.sources) == 2
    assert all(source.startswith("data:image/png;base64,") for source in table.sources)
    assert "http" not in page
    assert "12 mm &lt;L3&gt;" in page
    assert "lung &amp; pleura" in page


def test_the_fragment_styles_nothing_but_itself(assessment):
    fragment = render_table(assessment)
    assert fragment.startswith('<div class="recist">')
    Page(fragment)
    style = fragment.partition("<style>")[2].partition("</style>")[0]
    for line in style.splitlines():
        selector = line.partition("{")[0].strip() if "{" in line and "@media" not in line else ""
        for part in selector.split(",") if selector else ():
            assert part.strip().startswith(".recist"), line


def test_csv_has_a_row_a_lesion_sum_and_decision(assessment):
    rows = list(csv.DictReader(io.StringIO(to_csv(assessment))))
    assert tuple(rows[0]) == CSV_COLUMNS

    def values(kind, item=""):
        return [row["value"] for row in rows if row["kind"] == kind and row["item"] == item]

    assert values("target", "A") == ["40.0", "30.0", "20.0", "25.0"]
    assert values("sum") == ["101.0", "74.0", "34.0"]
    assert values("change_from_baseline") == ["-26.7", "-66.3"]
    assert values("overall_response") == ["SD", "PR", "PD"]
    assert values("best_response") == ["PR"]
    assert values("normal_node", "P") == ["8.0"]
    states = [row["state"] for row in rows if row["item"] == "B"]
    assert states == ["measured", "measured", "gone", "unconfirmed"]
    for row in rows:
        if row["kind"].endswith("response"):
            assert row["rule"]
            assert row["because"]
            assert "RECIST 1.1, " in row["rule_section"]


def test_json_is_plain_numbers_and_fits_its_schema(assessment):
    data = json.loads(to_json(assessment))
    assert data["baseline_sum_mm"] == 101.0
    assert data["time_points"][1]["sums"]["sum_mm"] == 34.0
    assert data["time_points"][2]["sums"]["sum_mm"] is None
    assert data["time_points"][0]["overall"] == {
        "response": "SD",
        "rule": {"section": "4.4.1, Table 1", "text": rules.TABLE_1_SD.text},
        "because": "targets SD, non-targets Non-CR/Non-PD, new lesions no",
    }
    assert data["best"]["response"] == "PR"
    schema = recist_schema()
    assert set(schema["properties"]) == set(data)
    assert schema["$defs"]["Sums"]["properties"].keys() == data["time_points"][0]["sums"].keys()


@pytest.mark.parametrize("dark", [False, True])
def test_the_plot_is_a_picture_in_the_theme(assessment, dark):
    picture = Image.open(io.BytesIO(draw_trajectories(assessment, dark)))
    pixels = np.asarray(picture.convert("L"))
    assert picture.size == (1166, 462)
    assert bool(np.median(pixels) < 60) is dark
    assert pixels.std() > 10


def test_the_plot_of_odd_cases_is_drawn():
    unmeasured = assess(make_result(lesion("N$_1", None, found(), radius_mm=7.0, nodal=True)))
    only_others = assess(make_result(lesion("B", 9, 9, role=Role.NON_TARGET)))
    many = assess(make_result(*(lesion(f"T{n}", 20, gone()) for n in range(7))))
    for case in (unmeasured, only_others, many):
        assert draw_trajectories(case).startswith(b"\x89PNG")
        Page(render_page(case))


# The command


@pytest.fixture
def folder(tmp_path):
    result, given = study()
    write_json(result, tmp_path / "result.json")
    (tmp_path / "given.json").write_text(given.model_dump_json())
    return tmp_path


def test_the_command_writes_beside_the_result(folder, capsys):
    assert main(["recist", str(folder), "--entries", str(folder / "given.json")]) == 0
    names = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    assert names == {"result.json", "given.json", "recist.html", "recist.csv", "recist.json"}
    out, err = capsys.readouterr()
    assert "Best overall response: PR; confirmed: SD" in out
    assert "to look at in follow-up 2: D: not found by the tracker" in out
    assert "recist.html, recist.csv and recist.json are in" in err
    first = (folder / "recist.csv").read_text()
    assert main(["recist", str(folder / "result.json"), "--quiet"]) == 0
    assert capsys.readouterr().err == ""
    assert (folder / "recist.csv").read_text() != first


def test_the_command_prints_json(folder, capsys):
    assert main(["recist", str(folder), "--output", "-"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["schema_version"] == 1
    assert not (folder / "recist.json").exists()


def test_the_command_prints_its_schemas(capsys):
    for which, field in (("entries", "time_points"), ("assessment", "baseline_sum_mm")):
        assert main(["recist", "--schema", which]) == 0
        assert field in json.loads(capsys.readouterr().out)["properties"]


def test_the_template_changes_nothing_but_who_chose(folder, capsys):
    path = folder / "fill.json"
    assert main(["recist", str(folder), "--template", str(path)]) == 0
    template = read_entries(path)
    result, _ = study()
    before, after = assess(result), assess(result, template)
    assert [p.overall for p in after.time_points] == [p.overall for p in before.time_points]
    assert all(lesion.chosen for lesion in after.lesions if lesion.id != "P")
    assert main(["recist", str(folder), "--template", str(path)]) == 3
    assert "exists already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 2, "no study"),
        (["--schema", "all"], 2, "entries assessment"),
        (["{0}/none"], 3, "No such file"),
        (["{0}/given.json"], 3, "not what tlt track writes"),
        (["{0}", "--entries", "{0}/none.json"], 3, "No such file"),
        (["{0}", "--entries", "{0}/result.json"], 3, "no such field"),
        (["{0}", "--template", "{0}/t.csv"], 2, ".json"),
    ],
)
def test_the_command_says_what_is_wrong(folder, capsys, arguments, code, words):
    assert main(["recist", *(a.format(folder) for a in arguments)]) == code
    err = capsys.readouterr().err
    assert words in err
    assert len(err.strip().splitlines()) == 1
    assert not (folder / "recist.html").exists()


# Roles in a lesion file


def test_site_node_and_role_are_written_where_there_are_any(tmp_path):
    marked = Lesion("N1", (1.0, 2.0, 3.0), 8.0, site="axilla", nodal=True, role=Role.TARGET)
    plain = Lesion("L2", (4.0, 5.0, 6.0), 9.0)
    write_lesions_csv([marked, plain], tmp_path / "l.csv", tracking_uids=True)
    grid = Grid((20, 20, 20), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    rows = read_csv((tmp_path / "l.csv").read_text(), "l.csv", grid)
    assert [(r.site, r.nodal, r.role, r.tracking_uid) for r in rows] == [
        ("axilla", True, Role.TARGET, marked.tracking_uid),
        ("", False, Role.UNDECIDED, plain.tracking_uid),
    ]
    write_lesions_csv([plain], tmp_path / "l.csv")
    assert (tmp_path / "l.csv").read_text().splitlines()[0] == ",".join(HEADER)


def test_a_lesion_file_may_tell_site_node_and_role(tmp_path):
    ct = make_phantom(torso_grid((40, 36, 20), (8.0, 7.0, 12.0)))
    x, y, z = ct.grid.center_mm
    head = "lesion_id,x,y,z,coordinate_system,radius_mm,site,nodal,role\n"
    path = tmp_path / "lesions.csv"
    path.write_text(
        f'{head}A,{x},{y},{z},LPS,5,"liver, dome",,target\n'
        f"B,{x},{y},{z},LPS,5,,Yes,non-target\nC,{x},{y},{z},LPS,5,,no,\n"
    )
    a, b, c = read_lesions(path, ct)
    assert (a.site, a.nodal, a.role) == ("liver, dome", False, Role.TARGET)
    assert (b.site, b.nodal, b.role) == ("", True, Role.NON_TARGET)
    assert (c.nodal, c.role) == (False, Role.UNDECIDED)
    for bad, words in (("A,1,1,1,LPS,5,,maybe,", "yes or no"), ("A,1,1,1,LPS,5,,,main", "target")):
        path.write_text(f"{head}{bad}\n")
        with pytest.raises(InputError, match=words):
            read_lesions(path, ct)


def test_sizes_of_a_reader_are_marked(tmp_path):
    a = assess(make_result(lesion("A", size(20, by_reader=True), found(12, by_reader=True))))
    assert [mark for mark, _ in legend(a)] == ["r"]
    assert not any("seen by no reader" in notice for notice in a.notices)


def test_a_non_target_node_without_a_short_axis_is_to_be_measured_and_was_there_at_baseline():
    a = assess(make_result(lesion("N", size(20), found(18), nodal=True, role=Role.NON_TARGET)))
    (node,), (now,) = a.lesions, a.time_points[0].measurements
    cells = [cell(node, m) for m in (node.baseline, now)]
    shown = [(one.text, one.marks, one.needs_review) for one in cells]
    assert shown == [("present", ("t",), True), ("not evaluable", ("t",), True)]
    assert "t" in dict(legend(a))
