"""The command line: flags, exit codes, streams and files of the contract."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from conftest import write_dicom_series
from fakes import LESIONS, SHIFT_MM, FakeTracker, ball_volume
from rich.console import Console

from tlt.cli.main import INTERNAL_ERROR, main
from tlt.cli.track import DEFAULT_FORMATS, chosen_formats, join_formats
from tlt.errors import ModelError, UsageError
from tlt.geometry import AffineTransform
from tlt.io.images import load_volume, save_volume
from tlt.io.output import staged
from tlt.io.results import Result, read_json
from tlt.io.sources import SOURCES
from tlt.lesion import Status
from tlt.model.shipped import PUBLISHED
from tlt.systems import TRACKERS
from tlt.timeline import in_time_order, track_over_time


@pytest.fixture
def study(tmp_path):
    """A folder with a baseline, a follow-up and lesions."""
    folder = tmp_path / "DOE^JANE"
    folder.mkdir()
    save_volume(ball_volume(LESIONS), folder / "bl.nii.gz")
    save_volume(ball_volume(LESIONS, SHIFT_MM), folder / "fu.nii.gz")
    rows = ["lesion_id,x,y,z,coordinate_system,radius_mm,label"]
    for lesion in LESIONS:
        x, y, z = lesion.center_mm
        rows.append(f"{lesion.id},{x},{y},{z},LPS,{lesion.radius_mm},{lesion.label}")
    (folder / "lesions.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture
def tracker(monkeypatch):
    """The tracker that every command gets instead of a trained one."""
    fake = FakeTracker()
    monkeypatch.setattr("tlt.track.Tracker.load", lambda *args: fake)
    return fake


def arguments(study, output, *more):
    return [
        "track", "--baseline", str(study / "bl.nii.gz"), "--followup", str(study / "fu.nii.gz"),
        "--lesions", str(study / "lesions.csv"), "--output", str(output), *map(str, more),
    ]  # fmt: skip


def written(folder):
    """What a person sees in a folder."""
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def assert_fails(capsys, args, exit_code, *words):
    """The command fails with one line on stderr that holds the words, and nothing on stdout."""
    assert main(args) == exit_code
    out, err = capsys.readouterr()
    assert out == ""
    last = err.splitlines()[-1]
    assert last.startswith("tlt: error: ")
    for word in words:
        assert word in last


def test_track_writes_everything_and_prints_the_table(study, tmp_path, tracker, capsys):
    output = tmp_path / "new" / "out"
    assert main(arguments(study, output)) == 0
    assert written(output) == [
        "lesion_L1.png", "lesion_L2.png", "lesion_L3.png",
        "matches.csv", "report.html", "result.json",
    ]  # fmt: skip
    result = read_json(output / "result.json")
    assert [lesion.id for lesion in result.lesions] == ["L1", "L2", "L3"]
    assert result.lesions[0].followups[0].center_mm == pytest.approx((-16, -16, -41))
    out, err = capsys.readouterr()
    assert max(len(line) for line in out.splitlines()) <= 100
    row = next(line for line in out.splitlines() if line.startswith("L1"))
    assert (
        " ".join(row.split()) == "L1 nodule found 90 % -16.0 -16.0 -41.0 8.0 15.8 x 15.8 +0 % 11.5"
    )
    assert "similarity of the registration 0.88" in out
    assert f"tracker {result.software.tracker}; mm; x, y, z in LPS" in out
    assert "read images" in err
    assert "\x1b" not in out + err


def test_sizes_reach_every_file_and_can_be_left_out(study, tmp_path, tracker, capsys):
    output = tmp_path / "out"
    assert main(arguments(study, output, "--format", "json", "csv", "html", "nifti")) == 0
    lesion = read_json(output / "result.json").lesions[0]
    size, before = lesion.followups[0].size, lesion.baseline.size
    assert size is not None
    assert before is not None
    assert not size.doubtful
    assert size.long_mm == pytest.approx(16, abs=1)
    assert lesion.followups[0].radius_mm == pytest.approx(size.long_mm / 2, abs=1e-3)
    header, row = (output / "matches.csv").read_text().splitlines()[:2]
    assert header.split(",")[-7:] == [
        *("long_mm", "short_mm", "volume_mm3", "size_doubtful"),
        *("decision", "reviewed_by", "reviewed_at"),
    ]
    assert row.split(",")[-7:] == [
        str(size.long_mm), str(size.short_mm), str(size.volume_mm3), "no", "", "", "",
    ]  # fmt: skip
    page = (output / "report.html").read_text(encoding="utf-8")
    assert f"{size.long_mm:.1f} x {size.short_mm:.1f}" in page
    voxels = load_mask(output / "followup_mask.nii.gz")
    assert np.count_nonzero(voxels == 1) * 12.0 == pytest.approx(size.volume_mm3, rel=0.15)
    assert main(arguments(study, tmp_path / "none", "--no-size", "--format", "json", "csv")) == 0
    lesion = read_json(tmp_path / "none" / "result.json").lesions[0]
    assert lesion.followups[0].size is lesion.baseline.size is lesion.followups[0].radius_mm is None
    assert (tmp_path / "none" / "matches.csv").read_text().splitlines()[1].endswith(",,,,")


def load_mask(path):
    """The labels of a mask file."""
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def test_short_forms_mean_the_long_ones(study, tmp_path, tracker, capsys):
    base = ["track", "-bl", f"{study}/bl.nii.gz", "-fu", f"{study}/fu.nii.gz"]
    rest = ["-l", f"{study}/lesions.csv", "-o", f"{tmp_path}/out", "-d", "cpu", "-q"]
    assert main([*base, *rest, "--format", "json"]) == 0
    assert written(tmp_path / "out") == ["result.json"]
    assert capsys.readouterr().err == ""
    assert main([*base, *rest[:-1], "-v", "--format=csv"]) == 0


def test_output_dash_prints_json_and_writes_nothing(study, tmp_path, tracker, capsys):
    before = sorted(tmp_path.rglob("*"))
    assert main(arguments(study, "-")) == 0
    out, _ = capsys.readouterr()
    result = Result.model_validate(json.loads(out))
    assert len(result.lesions) == 3
    assert sorted(tmp_path.rglob("*")) == before


def test_no_folder_name_gets_into_results_unless_asked_for(study, tmp_path, tracker, capsys):
    assert main(arguments(study, tmp_path / "out")) == 0
    for path in (tmp_path / "out").iterdir():
        # The images' places are kept for tlt review, for the owner only.
        assert (b"DOE^JANE" in path.read_bytes()) == (path.name == SOURCES)
    assert (tmp_path / "out" / SOURCES).stat().st_mode & 0o077 == 0
    assert "DOE" not in "".join(capsys.readouterr())
    assert main(arguments(study, tmp_path / "named", "--with-identifiers")) == 0
    assert read_json(tmp_path / "named" / "result.json").baseline.path == f"{study}/bl.nii.gz"


def test_scans_of_two_patients_are_told_and_no_identifier_is_kept(study, tmp_path, tracker, capsys):
    for name, patient in (("bl", "SECRET-1"), ("fu", "SECRET-1"), ("other", "SECRET-2")):
        volume = load_volume(study / ("bl.nii.gz" if name == "bl" else "fu.nii.gz"))
        write_dicom_series(volume, study / name, PatientID=patient)
    for name, expected in (("fu", 0), ("other", 1)):
        given = arguments(study, tmp_path / name, "--baseline", study / "bl")
        given[given.index("--followup") + 1] = str(study / name)
        assert main(given) == 0
        warnings = read_json(tmp_path / name / "result.json").warnings
        assert sum("different PatientIDs" in warning for warning in warnings) == expected
        assert all(b"SECRET" not in path.read_bytes() for path in (tmp_path / name).iterdir())
        assert "SECRET" not in "".join(capsys.readouterr())


def test_slicer_points_and_mask_are_written(study, tmp_path, tracker):
    assert main(arguments(study, tmp_path / "out", "--format", "mrk", "nifti")) == 0
    assert written(tmp_path / "out") == ["followup.mrk.json", "followup_mask.nii.gz"]


def test_warnings_reach_the_result_and_stderr(study, tmp_path, tracker, capsys):
    text = (study / "lesions.csv").read_text().replace(",8.0,", ",,")
    (study / "lesions.csv").write_text(text)
    assert main(arguments(study, tmp_path / "out", "--format", "json")) == 0
    (warning,) = read_json(tmp_path / "out" / "result.json").warnings
    assert "10" in warning
    assert f"tlt: warning: {warning}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--sr-profile", "ohif"], ["--sr-profile", "dicom-sr"]),
        (["--format", "json,pdf"], ["pdf", "html"]),
        (["--device", "tpu"], ["tpu", "cuda"]),
        (["--precision", "fp8"], ["fp8", "bf16"]),
        (["--tracker", "nobody"], ["nobody", "tlt"]),
        (["--points-in", "ras"], ["ras", "lps"]),
        (["--followup", ""], ["--followup", "empty"]),
        (["-q", "-v"], ["--quiet"]),
        (["--colour"], ["--colour"]),
        (["stray"], ["stray"]),
    ],
)
def test_usage_errors_exit_with_2_on_one_line(study, tmp_path, capsys, more, words):
    assert_fails(capsys, arguments(study, tmp_path / "out", *more), 2, *words)
    assert not (tmp_path / "out").exists()


def test_missing_arguments_and_unknown_commands_are_usage_errors(capsys):
    assert_fails(capsys, ["track"], 2, "--baseline")
    assert_fails(capsys, ["trakc"], 2, "trakc")
    assert main([]) == 2
    assert "track" in capsys.readouterr().out


def test_unreadable_input_exits_with_3(study, tmp_path, tracker, capsys):
    (study / "fu.nii.gz").write_bytes(b"no image")
    assert_fails(capsys, arguments(study, tmp_path / "out"), 3, "fu.nii.gz")
    (study / "lesions.csv").unlink()
    save_volume(ball_volume(LESIONS), study / "fu.nii.gz")
    assert_fails(capsys, arguments(study, tmp_path / "out"), 3, "lesions.csv")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["DOE^JANE"]


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [
        (ModelError("weights are\nbroken"), 4),
        (OSError(28, "No space left on device", "x"), 3),
        (MemoryError(), 3),
        (KeyboardInterrupt(), 130),
        (ZeroDivisionError("oh"), INTERNAL_ERROR),
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_failure_is_one_line_and_leaves_nothing(
    study, tmp_path, monkeypatch, capsys, error, exit_code
):
    def fail(*args):
        raise error

    monkeypatch.setattr("tlt.track.Tracker.load", fail)
    assert_fails(capsys, arguments(study, tmp_path / "out"), exit_code)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["DOE^JANE"]


def test_a_failure_while_writing_keeps_an_older_result(study, tmp_path, tracker, monkeypatch):
    output = tmp_path / "out"
    assert main(arguments(study, output, "--format", "json", "html")) == 0
    before = {path.name: path.read_bytes() for path in output.iterdir()}
    monkeypatch.setattr("tlt.io.exports.write_report", lambda *args: 1 / 0)
    assert main(arguments(study, output, "--format", "json", "html")) == INTERNAL_ERROR
    assert {path.name: path.read_bytes() for path in output.iterdir()} == before


def test_a_second_run_leaves_nothing_of_the_first_and_everything_else(study, tmp_path, tracker):
    output = tmp_path / "out"
    output.mkdir()
    for name in ("notes.txt", "lesion_mine.png"):
        (output / name).write_text("the user's")
    assert main(arguments(study, output, "--format", *DEFAULT_FORMATS, "mrk", "nifti")) == 0
    assert {"lesion_L3.png", "followup_mask.nii.gz", "result.json"} < set(written(output))
    text = (study / "lesions.csv").read_text()
    (study / "lesions.csv").write_text(text.rsplit("L3", 1)[0])
    assert main(arguments(study, output, "--format", "png", "csv")) == 0
    kept = ["lesion_L1.png", "lesion_L2.png", "lesion_mine.png", "matches.csv", "notes.txt"]
    assert written(output) == kept


def test_a_list_of_files_reaches_no_other_folder(tmp_path):
    (tmp_path / "mine").write_text("the user's")
    output = tmp_path / "out"
    output.mkdir()
    (output / ".list").write_text(json.dumps(["../mine", "old", str(tmp_path / "mine"), "..", 3]))
    (output / "old").write_text("of an earlier run")
    with staged(output, listed=".list") as folder:
        (folder / "new").write_text("now")
    assert written(output) == ["new"]
    assert (tmp_path / "mine").is_file()


def test_verbose_shows_where_it_failed(study, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("tlt.track.Tracker.load", lambda *args: 1 / 0)
    main(arguments(study, tmp_path / "out", "-v"))
    assert "Traceback" in capsys.readouterr().err


def test_an_output_that_cannot_be_written_fails_before_any_work(study, tmp_path, tracker, capsys):
    (tmp_path / "file").write_text("here already")
    for output in (tmp_path / "file", tmp_path / "file" / "out"):
        assert_fails(capsys, arguments(study, output), 3, str(output))
    assert tracker.calls == []


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_closed_folder_fails_before_any_work(study, tmp_path, tracker, capsys):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    assert_fails(capsys, arguments(study, closed / "out"), 3, "closed")
    assert tracker.calls == []


def test_several_followups_each_start_from_the_last_one_found(study, tmp_path, capsys, monkeypatch):
    fake = FakeTracker(lost={1: {"L2"}})
    monkeypatch.setattr("tlt.track.Tracker.load", lambda *args: fake)
    save_volume(ball_volume(LESIONS, np_twice(SHIFT_MM)), study / "fu2.nii.gz")
    extra = ["--followup", study / "fu2.nii.gz", "--format", "json", "png"]
    assert main(arguments(study, tmp_path / "out", *extra)) == 0
    assert [ids for _, _, ids in fake.calls] == [["L1", "L2", "L3"], ["L1", "L3"], ["L2"]]
    assert fake.calls[1][0] is fake.calls[0][1]
    assert fake.calls[2][0] is fake.calls[0][0]
    result = read_json(tmp_path / "out" / "result.json")
    assert [image.path for image in result.followups] == ["fu.nii.gz", "fu2.nii.gz"]
    first, second = result.lesions[:2]
    assert first.followups[1].center_mm == pytest.approx((-12, -22, -32))
    assert first.baseline.center_mm == pytest.approx((-20, -10, -50))
    assert second.followups[1].center_mm == pytest.approx((29, 14, -21))
    assert "fu2.png" in "".join(path.name for path in (tmp_path / "out").iterdir())


def np_twice(shift):
    return tuple(2 * value for value in shift)


def test_followups_are_ordered_by_date_where_all_are_known():
    baseline = ball_volume([], date="20200101")
    dates = ["20210101", "20200301", "20191201"]
    volumes = [ball_volume([], date=date) for date in dates]
    assert [v.date for v in in_time_order(baseline, volumes)] == dates[::-1]
    undated = replace(baseline, date=None)
    assert [v.date for v in in_time_order(undated, volumes)] == sorted(dates)
    mixed = [volumes[0], replace(volumes[1], date=None), volumes[2]]
    assert in_time_order(baseline, mixed) == mixed


def test_a_measured_radius_is_the_next_template():
    volumes = [ball_volume(LESIONS) for _ in range(3)]
    fake = FakeTracker()
    seen = []
    original = fake.track_pair

    def spy(baseline, followup, lesions, progress=None):
        seen.append(lesions[0].radius_mm)
        pair = original(baseline, followup, lesions)
        return replace(pair, matches=[replace(match, radius_mm=3.0) for match in pair.matches])

    fake.track_pair = spy
    pairs = track_over_time(fake, volumes[0], volumes[1:], LESIONS)
    assert seen == [8.0, 3.0]
    seen.clear()
    track_over_time(
        fake, volumes[0], volumes[1:], LESIONS, measure=lambda m, _: replace(m, radius_mm=None)
    )
    assert seen == [8.0, 8.0], "what was measured with a doubt is not passed on"
    assert [pair.matches[0].lesion for pair in pairs] == [LESIONS[0], LESIONS[0]]
    assert all(match.status is Status.FOUND for pair in pairs for match in pair.matches)


def test_each_registration_starts_from_the_baseline_whatever_image_the_lesions_come_from():
    volumes = [ball_volume(LESIONS) for _ in range(3)]
    fake = FakeTracker()
    original = fake.track_pair
    stretch = AffineTransform(np.diag([1.0, 1.0, 1.1]), np.array([3.0, 0.0, -2.0]))

    def stretched(*arguments):
        pair = original(*arguments)
        found = replace(pair.registration, baseline_to_followup=stretch)
        return replace(pair, registration=found)

    fake.track_pair = stretched
    first, second = track_over_time(fake, volumes[0], volumes[1:], LESIONS)
    assert fake.calls[1][0] is volumes[1]  # the second follow-up is tracked from the first
    point = np.array([10.0, 20.0, 30.0])
    np.testing.assert_allclose(first.registration.baseline_to_followup(point), stretch(point))
    np.testing.assert_allclose(
        second.registration.baseline_to_followup(point), stretch(stretch(point))
    )


@pytest.mark.parametrize(
    "words",
    [
        ["--format", "json", "csv"], ["--format", "json,csv"], ["--format=json", "csv"],
        ["--format", "json", "--format", "csv"], ["--format", "json,", "CSV", "json"],
    ],
)  # fmt: skip
def test_formats_are_given_in_any_way(words):
    joined = join_formats([*words, "--quiet"])
    assert joined[-1] == "--quiet"
    given = [word.removeprefix("--format=") for word in joined[:-1] if word != "--format"]
    assert chosen_formats(given, "out") == ("json", "csv")


def test_formats_default_and_clash_with_stdout():
    assert chosen_formats(None, "out") == DEFAULT_FORMATS
    assert chosen_formats(["json"], "-") == ()
    with pytest.raises(UsageError, match="folder"):
        chosen_formats(["html"], "-")
    with pytest.raises(UsageError, match="empty"):
        chosen_formats([","], "out")


def test_demo_knows_the_true_error(study, tracker, monkeypatch, tmp_path, capsys):
    example = tmp_path / "example"
    example.mkdir()
    for old, new in (("bl", "baseline"), ("fu", "followup")):
        (example / f"{new}.nii.gz").write_bytes((study / f"{old}.nii.gz").read_bytes())
    text = (study / "lesions.csv").read_text()
    (example / "lesions.csv").write_text(text)
    # The fake tracker moves each lesion by (4, -6, 9): L1 (8 mm) is then 3 mm off, L2 (12 mm) is 12
    # mm off, beyond the 10 mm of the metric, and L3 has no truth.
    rows = ["lesion_id,x,y,z,coordinate_system,radius_mm", "L1,-16,-13,-41,LPS,8"]
    (example / "truth.csv").write_text("\n".join([*rows, "L2,29,14,-9,LPS,12"]) + "\n")
    monkeypatch.setattr("tlt.cli.demo.example_folder", lambda: contextlib.nullcontext(example))
    assert main(["demo", "--output", str(tmp_path / "demo")]) == 0
    out = capsys.readouterr().out
    rows = [line for line in out.splitlines() if line.startswith("L")]
    assert [line.split()[-1] for line in rows] == ["error", "3.0", "12.0", "-"]
    assert ["!" in line for line in rows] == [False, False, True, False]
    assert "! a true error beyond 10 mm" in out
    assert str(tmp_path / "demo" / "report.html") in out
    assert (tmp_path / "demo" / "lesion_L3.png").is_file()


def test_trackers_lists_what_can_be_chosen(capsys):
    assert main(["trackers"]) == 0
    assert "tlt" in capsys.readouterr().out
    assert main(["trackers", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert "tlt" in [row["name"] for row in rows]
    keys = ("name", "summary", "source", "learned", "weights", "parameters", "measured")
    assert {tuple(row) for row in rows} == {keys}
    parameters = {row["name"]: row["parameters"] for row in rows}
    assert parameters["affine"] == 0
    assert parameters["tlt"] == 1_293_893  # as docs/method.md has it: no batch statistics
    for row in rows:
        assert row["measured"]["n"] > row["measured"]["lesions_n"] > 100


def test_trackers_fit_a_terminal_of_80_columns(capsys, monkeypatch):
    monkeypatch.setattr(
        "tlt.cli.display.out_console", lambda: Console(width=80, force_terminal=False)
    )
    assert main(["trackers"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert {line.split()[0] for line in lines if line[:1].isalpha()} > set(TRACKERS)
    assert "…" not in "".join(lines)


def test_a_row_without_figures_is_a_dash(capsys, monkeypatch, tmp_path):
    lines = [{"name": "patch", "lesions": None} | dict.fromkeys(PUBLISHED)]
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "table1.json").write_text(json.dumps(lines))
    monkeypatch.setattr("tlt.model.shipped.resources.files", lambda package: tmp_path)
    assert main(["trackers"]) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("patch"))
    assert row.split()[-5:] == ["-"] * 5


def test_weights_that_are_missing_are_told_once(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("tlt.model.shipped.shipped_path", lambda name: tmp_path / name)
    assert main(["trackers"]) == 0
    out = capsys.readouterr().out
    assert out.count("configs/table1/lens.yaml") == 1
    assert "lens-ct (lens-lesiongraph, lens-lesanet): 'tlt train --config" in out


def test_a_tracker_without_weights_says_what_makes_them(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("tlt.model.weights.shipped_path", lambda name: tmp_path / name)
    example = files("tlt") / "example"
    images = [f"--{name}={example}/{name}.nii.gz" for name in ("baseline", "followup")]
    asked = ["track", *images, f"--lesions={example}/lesions.csv", f"--output={tmp_path}/out"]
    assert main([*asked, "--tracker", "dlt-mix"]) == 4
    assert "'tlt train --config configs/table1/dlt-mix.yaml'" in capsys.readouterr().err
    assert main([*asked, "--tracker", "tlt"]) == 4
    steps = [
        f"'tlt train --config configs/compact{part}.yaml'" for part in ("", "-views", "-motion")
    ]
    assert ", then ".join(steps) in capsys.readouterr().err
    root = Path(__file__).parents[1]
    assert all((root / step.split()[-1].strip("'")).is_file() for step in steps)
    assert not (tmp_path / "out").exists()


def test_info_prints_facts_and_the_schema(capsys):
    assert main(["info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["result_schema_version"] == 1
    assert facts["presets"]
    assert all(preset["parameters"] > 1000 for preset in facts["presets"].values())
    assert main(["info"]) == 0
    assert facts["version"] in capsys.readouterr().out
    assert main(["info", "--schema"]) == 0
    assert json.loads(capsys.readouterr().out)["properties"]["lesions"]
    assert main(["info", "--schema", "--json"]) == 2


def test_help_is_quick_and_imports_nothing_heavy():
    heavy = "[m for m in ('torch', 'SimpleITK', 'matplotlib', 'scipy') if m in sys.modules]"
    code = f"import sys; from tlt.cli.main import main; main(['--help']); sys.exit(str({heavy}))"
    run = [sys.executable, "-c", code]
    started = time.perf_counter()
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    assert time.perf_counter() - started < 5
    assert done.stderr.strip() == "[]"
    assert "track" in done.stdout


def test_version_is_that_of_the_package(capsys):
    from importlib.metadata import version

    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"tlt {version('transformer-lesion-tracker')}\n"


def test_command_line_is_installed(tmp_path):
    command = Path(sys.executable).with_name("tlt")
    if not command.exists():
        pytest.skip("the package is not installed beside this Python")
    done = subprocess.run([command, "track", "--followup"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("tlt: error: ")
    assert done.stderr.count("\n") == 1
