"""``tlt pacs``: images from a PACS, reports to it, and watching it for follow-ups."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tlt.errors import InputError, UsageError

if TYPE_CHECKING:
    from tlt.pacs.peer import Peer
    from tlt.pacs.pulling import Pulled

app = typer.Typer(
    no_args_is_help=True,
    help="Fetch images from a PACS, store reports in it, watch it for follow-ups.",
    epilog="Who we are: TLT_PACS_USER and TLT_PACS_PASSWORD, TLT_PACS_TOKEN, or ~/.netrc.",
)

Address = Annotated[
    str,
    typer.Option(
        "--peer",
        envvar="TLT_PACS_PEER",
        metavar="ADDRESS",
        help="https://HOST/dicom-web (DICOMweb) or dicom://AETITLE@HOST:PORT (DIMSE).",
    ),
]
OurTitle = Annotated[
    str | None,
    typer.Option("--aet", metavar="TITLE", help="Our AE title; default TLT_PACS_AET, or TLT."),
]
ConnectTimeout = Annotated[
    float, typer.Option(min=0.1, metavar="SECONDS", help="Until a connection stands.")
]
ReadTimeout = Annotated[
    float, typer.Option(min=0.1, metavar="SECONDS", help="Silence within an answer.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Only errors on stderr.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="More on stderr, tracebacks.")]


@app.command()
def echo(
    peer: Address,
    aet: OurTitle = None,
    connect_timeout: ConnectTimeout = 10.0,
    read_timeout: ReadTimeout = 60.0,
    verbose: Verbose = False,
) -> None:
    """Ask whether the PACS is there and accepts us."""
    opened = _opened(peer, aet, connect_timeout, read_timeout)
    opened.echo()
    print(f"{opened.name} answers")


@app.command()
def pull(
    peer: Address,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FOLDER", help="For the files.")
    ],
    study: Annotated[str | None, typer.Option(metavar="UID", help="Study to fetch.")] = None,
    series: Annotated[str | None, typer.Option(metavar="UID", help="Series to fetch.")] = None,
    patient_id: Annotated[
        str | None,
        typer.Option(
            metavar="ID",
            help="Patient whose studies to fetch; - reads it from stdin. Better than here, where "
            "others can see it, it is given in TLT_PACS_PATIENT_ID.",
        ),
    ] = None,
    aet: OurTitle = None,
    connect_timeout: ConnectTimeout = 10.0,
    read_timeout: ReadTimeout = 60.0,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Fetch a series, a study, or the studies of a patient into folders, a series each.

    Repeated, it fetches only what is not there yet.
    """
    from tlt.io.output import check_writable
    from tlt.pacs.peer import checked_uid
    from tlt.pacs.pulling import folder_name, pull_series, pull_studies, the_series

    if study is None and series is None:
        patient_id = _patient_id(patient_id)
    elif patient_id is not None:
        raise UsageError("--patient-id: give it alone, or --study and --series without it")
    study_uid, series_uid = (None if one is None else checked_uid(one) for one in (study, series))
    opened = _opened(peer, aet, connect_timeout, read_timeout)
    check_writable(output)
    pulled: list[Pulled] = []
    if series_uid is not None:
        one = the_series(opened, series_uid, study_uid)
        pulled.append(pull_series(opened, one, output / folder_name(one)))
    else:
        uids = _studies_of(opened, patient_id) if study_uid is None else [study_uid]
        pulled = pull_studies(opened, uids, output)
    if not quiet:
        _print_pulled(pulled, output)


@app.command()
def push(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="DICOM files, or folders of them.")
    ],
    peer: Address,
    aet: OurTitle = None,
    connect_timeout: ConnectTimeout = 10.0,
    read_timeout: ReadTimeout = 60.0,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Store DICOM files in the PACS; storing a file again changes nothing."""
    paths = _dicom_files(files)
    opened = _opened(peer, aet, connect_timeout, read_timeout)
    opened.store(paths)
    if not quiet:
        print(f"{len(paths)} files stored in {opened.name}")


@app.command()
def watch(
    peer: Address,
    work: Annotated[
        Path, typer.Option(metavar="FOLDER", help="For the journal, current jobs and results.")
    ],
    interval: Annotated[
        float, typer.Option(min=1.0, metavar="SECONDS", help="Between two looks at the PACS.")
    ] = 60.0,
    once: Annotated[bool, typer.Option("--once", help="Look once, work, and end.")] = False,
    quiet_seconds: Annotated[
        float,
        typer.Option(
            min=0.0,
            metavar="SECONDS",
            help="A study is finished when no image has come for as long.",
        ),
    ] = 120.0,
    days: Annotated[
        int, typer.Option(min=0, metavar="N", help="Studies of the last N days; 0 for all.")
    ] = 7,
    tracker: Annotated[
        str, typer.Option(metavar="NAME", help="Which tracker; see tlt trackers.")
    ] = "tlt",
    model: Annotated[
        str | None, typer.Option(metavar="NAME_OR_PATH", help="Weights of the tracker.")
    ] = None,
    device: Annotated[
        str, typer.Option("--device", "-d", metavar="NAME", help="auto, cpu, cuda or cuda:N.")
    ] = "auto",
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep images and reports of finished jobs.")
    ] = False,
    aet: OurTitle = None,
    connect_timeout: ConnectTimeout = 10.0,
    read_timeout: ReadTimeout = 60.0,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Track every finished follow-up of a patient whose earlier CT is marked; store the report.

    Marked: the earlier study holds a DICOM SR (TID 1500) with measurements.

    It may be stopped and started at any time.
    """
    import time

    from tlt.cli.display import Display
    from tlt.pacs.followup import Tracking
    from tlt.pacs.watch import Watch, WatchSettings
    from tlt.systems import TRACKERS, unknown_tracker
    from tlt.track import Tracker

    if tracker not in TRACKERS:
        raise unknown_tracker(tracker)
    opened = _opened(peer, aet, connect_timeout, read_timeout)
    Tracker.load(tracker, model, device, "auto")  # what cannot be used is said now, not at night
    settings = WatchSettings(work, Tracking(tracker, model, device), quiet_seconds, days, keep)
    display = Display(quiet=quiet, verbose=verbose)
    with Watch(opened, settings, display.say) as watching:
        if not once:
            watching.run(interval)
        poll = watching.poll(time.time())
    display.say(str(poll))
    if not poll.studies and days:
        display.say(f"only studies of the last {days} days are looked at; --days 0 takes all")
    if poll.arriving:
        display.say(
            f"a study is finished after {quiet_seconds:g} s without a new image (--quiet-seconds); "
            "look again then"
        )
    if poll.failed:
        display.say(f"failures are listed in {work / 'failures.csv'}")
        raise typer.Exit(1)


def _opened(address: str, aet: str | None, connect_s: float, read_s: float) -> Peer:
    from tlt.pacs.peer import Limits, OurSide, checked_ae_title, open_peer

    our_side = OurSide.from_environment()
    if aet is not None:
        our_side = replace(our_side, ae_title=checked_ae_title(aet))
    return open_peer(address, Limits(connect_s, read_s), our_side)


def _patient_id(given: str | None) -> str:
    """The PatientID from stdin, the environment or the option; never quoted in a message."""
    if given is None:
        given = os.environ.get("TLT_PACS_PATIENT_ID")
    elif given == "-":
        given = sys.stdin.readline()
    given = (given or "").strip()
    if not given:
        raise UsageError("nothing to fetch; give --series, --study, or TLT_PACS_PATIENT_ID")
    if any(one in given for one in "*?\\"):
        raise UsageError("the PatientID has a wildcard; give one patient's whole ID")
    return given


def _studies_of(peer: Peer, patient_id: str | None) -> list[str]:
    from tlt.errors import PeerError

    found = peer.studies(PatientID=patient_id or "")
    uids = [one.uid for one in found if one.patient_id == patient_id]
    if not uids:
        raise PeerError(f"{peer.name}: has no study of that patient; check the ID")
    return uids


def _dicom_files(given: list[Path]) -> list[Path]:
    """The files, those of folders included; raises InputError for what is no DICOM."""
    from tlt.io.dicom_files import is_dicom

    paths: list[Path] = []
    for one in given:
        if one.is_dir():
            inside = [path for path in sorted(one.rglob("*")) if path.is_file() and is_dicom(path)]
            if not inside:
                raise InputError(f"{one}: holds no DICOM file; give one that does")
            paths += inside
        elif not one.is_file():
            raise InputError(f"{one}: no such file or folder; check the path")
        elif not is_dicom(one):
            raise InputError(f"{one}: not a DICOM file; give DICOM files")
        else:
            paths.append(one)
    return paths


def _print_pulled(pulled: list[Pulled], output: Path) -> None:
    from rich import box
    from rich.table import Table

    from tlt.cli.display import out_console

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("Folder", overflow="fold")
    for name in ("Files", "Fetched now"):
        table.add_column(name, justify="right")
    for one in pulled:
        table.add_row(str(output / one.folder.name), str(one.images), str(one.fetched))
    out_console().print(table)
