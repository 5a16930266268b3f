"""A real Orthanc over both protocols, and peers that are down, slow, or answer garbage."""

from __future__ import annotations

import json
import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pydicom
import pytest
from conftest import make_phantom, torso_grid
from orthanc import PASSWORD, USER, Orthanc, free_port, running_orthanc
from pacs_patients import Patient, make_patient, write_scan
from pydicom.uid import RLELossless

from tlt.cli.main import main
from tlt.errors import InputError, PeerError, UsageError
from tlt.io.images import load_volume
from tlt.io.sources import read_sources
from tlt.pacs.dimse import DimsePeer
from tlt.pacs.peer import Limits, OurSide, Peer, PeerSeries, open_peer
from tlt.pacs.pulling import file_name, pull_series, the_series

IMPATIENT = Limits(connect_s=1.0, read_s=0.6, attempts=2, pause_s=0.01)
SERIES = PeerSeries("1.2.3.4.5.6.7.8", "1.2.3.4.5.6.7", "CT", 3)
PROTOCOLS = ("dicomweb", "dimse")


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory) -> Iterator[Orthanc]:
    """An Orthanc for this file; tests that store something take it away again."""
    with running_orthanc(tmp_path_factory.mktemp("orthanc")) as one:
        yield one


@pytest.fixture(scope="module")
def patient(orthanc, tmp_path_factory) -> Patient:
    """A patient who is in Orthanc."""
    made = make_patient(tmp_path_factory.mktemp("patient"))
    orthanc.add(made.files("baseline", "followup", "report"))
    return made


@pytest.fixture
def environment(orthanc, monkeypatch) -> None:
    monkeypatch.setenv("TLT_PACS_USER", USER)
    monkeypatch.setenv("TLT_PACS_PASSWORD", PASSWORD)
    monkeypatch.setenv("TLT_PACS_STORE_PORT", str(orthanc.store_port))


def address(orthanc: Orthanc, protocol: str) -> str:
    return orthanc.url if protocol == "dicomweb" else orthanc.dicom


def connect(orthanc: Orthanc, protocol: str) -> Peer:
    ours = OurSide(user=USER, password=PASSWORD, store_port=orthanc.store_port)
    return open_peer(address(orthanc, protocol), Limits(pause_s=0.01), ours)


def same_content(path: Path, other: Path) -> bool:
    """Whether two files hold the same dataset in the same encoding; meta headers may differ."""
    one, two = pydicom.dcmread(path), pydicom.dcmread(other)
    return one == two and one.file_meta.TransferSyntaxUID == two.file_meta.TransferSyntaxUID


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_search(orthanc, patient, protocol):
    peer = connect(orthanc, protocol)
    peer.echo()
    studies = peer.studies(PatientID=patient.id)
    assert {one.uid for one in studies} == {patient.baseline_study, patient.followup_study}
    assert {one.date for one in studies} == {"20240105", "20240405"}
    assert {one.birth_date for one in studies} == {"19470511"}
    assert [one.uid for one in peer.studies(PatientID=patient.id, StudyDate="20240301-")] == [
        patient.followup_study
    ]
    found = {(one.modality, one.images) for one in peer.series(patient.baseline_study)}
    assert found == {("CT", 30), ("SR", 1)}
    assert the_series(peer, patient.followup_series).study_uid == patient.followup_study
    assert peer.studies(PatientID="nobody & co") == []
    with pytest.raises(PeerError, match="does not have that series"):
        the_series(peer, "1.2.3.4.5")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_pull_gives_what_was_stored(orthanc, patient, protocol, tmp_path):
    peer = connect(orthanc, protocol)
    series = the_series(peer, patient.baseline_series)
    pulled = pull_series(peer, series, tmp_path / "ct")
    assert (pulled.images, pulled.fetched, pulled.modality) == (30, 30, "CT")
    stored = {pydicom.dcmread(path).SOPInstanceUID: path for path in patient.files("baseline")}
    for uid, path in stored.items():
        fetched = tmp_path / "ct" / file_name(uid)
        assert same_content(fetched, path)
        if protocol == "dicomweb":
            assert fetched.read_bytes() == path.read_bytes()
    assert len(list((tmp_path / "ct").iterdir())) == 30
    assert (load_volume(tmp_path / "ct").voxels == load_volume(patient.baseline).voxels).all()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_pull_again_fetches_only_what_is_missing_or_cut(orthanc, patient, protocol, tmp_path):
    peer = connect(orthanc, protocol)
    series = the_series(peer, patient.baseline_series)
    pull_series(peer, series, tmp_path)
    whole = {path: path.read_bytes() for path in tmp_path.iterdir()}
    first, second, third, *_ = whole
    first.unlink()
    second.write_bytes(whole[second][:-9])
    third.write_bytes(b"")
    (tmp_path / f".{'0' * 8}.{'1' * 32}.dcm").write_bytes(b"left by a kill")
    calls = []
    fetch = peer.fetch
    peer.fetch = lambda s, uids, receive: calls.append(uids) or fetch(s, uids, receive)
    assert pull_series(peer, series, tmp_path).fetched == 3
    assert len(calls) == 1
    assert len(calls[0]) == 3
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == whole
    assert pull_series(peer, series, tmp_path).fetched == 0
    assert len(calls) == 1


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_compressed_images_stay_compressed(orthanc, protocol, tmp_path):
    study = f"1.2.826.0.1.3680043.8.498.{PROTOCOLS.index(protocol) + 1}"
    volume = make_phantom(torso_grid((20, 16, 12), (16.0, 15.0, 20.0)))
    uid = write_scan(volume, tmp_path / "ct", "RLE", study, "20240101")
    for path in (tmp_path / "ct").iterdir():
        one = pydicom.dcmread(path)
        one.compress(RLELossless)
        one.save_as(path)
    peer = connect(orthanc, protocol)
    peer.store(sorted((tmp_path / "ct").iterdir()))
    assert len(orthanc.find(SeriesInstanceUID=uid)) == 12
    pull_series(peer, the_series(peer, uid), tmp_path / "again")
    one = pydicom.dcmread(next((tmp_path / "again").iterdir()))
    assert one.file_meta.TransferSyntaxUID == RLELossless
    assert (load_volume(tmp_path / "again").voxels == volume.voxels).all()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_push_twice_is_one_object(orthanc, patient, protocol, environment, capsys):
    report = str(patient.report)
    peer = address(orthanc, protocol)
    orthanc.remove("Series", Modality="SR")
    assert main(["pacs", "push", report, "--peer", peer]) == 0
    assert main(["pacs", "push", report, "--peer", peer]) == 0
    (found,) = orthanc.find("Instance", Modality="SR")
    stored = pydicom.dcmread(patient.report)
    back = orthanc.get(f"/instances/{found}/simplified-tags")
    assert back["SOPInstanceUID"] == stored.SOPInstanceUID
    out, err = capsys.readouterr()
    assert "1 files stored" in out
    assert not [one for one in patient.secrets if one in out + err]


def test_images_come_by_move_where_a_peer_has_no_get(orthanc, patient, tmp_path, monkeypatch):
    peer = connect(orthanc, "dimse")
    monkeypatch.setattr(DimsePeer, "_get", lambda self, query, receive: False)
    pulled = pull_series(peer, the_series(peer, patient.followup_series), tmp_path)
    assert pulled.fetched == 30
    assert (load_volume(tmp_path).voxels == load_volume(patient.followup).voxels).all()


def test_moving_to_a_taken_port_is_said(orthanc, patient, tmp_path, monkeypatch):
    monkeypatch.setattr(DimsePeer, "_get", lambda self, query, receive: False)
    with socket.create_server(("127.0.0.1", 0)) as other:
        ours = OurSide(store_port=other.getsockname()[1])
        peer = open_peer(orthanc.dicom, Limits(), ours)
        with pytest.raises(PeerError, match="TLT_PACS_STORE_PORT"):
            pull_series(peer, the_series(peer, patient.followup_series), tmp_path)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_command_pulls_a_patient(orthanc, patient, protocol, environment, tmp_path, capsys,
                                     monkeypatch):  # fmt: skip
    orthanc.add([patient.report])
    arguments = ["pacs", "pull", "--peer", address(orthanc, protocol), "--output"]
    monkeypatch.setenv("TLT_PACS_PATIENT_ID", patient.id)
    assert main([*arguments, str(tmp_path / "all")]) == 0
    assert sorted(path.name[:3] for path in (tmp_path / "all").iterdir()) == ["CT-", "CT-", "SR-"]
    assert main([*arguments, str(tmp_path / "one"), "--study", patient.followup_study]) == 0
    (folder,) = (tmp_path / "one").iterdir()
    assert (load_volume(folder).voxels == load_volume(patient.followup).voxels).all()
    out, err = capsys.readouterr()
    assert "30" in out
    assert not [one for one in patient.secrets if one in out + err]
    monkeypatch.setenv("TLT_PACS_PATIENT_ID", "*")
    assert main([*arguments, str(tmp_path / "x")]) == 2


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_series_of_a_pacs_is_tracked_like_a_folder(
    orthanc, patient, protocol, environment, tmp_path, monkeypatch
):
    orthanc.add([patient.report])
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    at = f"{'dicomweb+' if protocol == 'dicomweb' else ''}{address(orthanc, protocol)}#"
    report = pydicom.dcmread(patient.report).SeriesInstanceUID
    arguments = [
        "track", "--baseline", at + patient.baseline_series, "--tracker", "affine", "--quiet",
        "--followup", at + patient.followup_series, "--lesions", at + str(report),
        "--output", str(tmp_path / "out"), "--format", "json", "dicom-sr",
    ]  # fmt: skip
    assert main(arguments) == 0
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert [lesion["id"] for lesion in result["lesions"]] == ["L1", "L2", "L3"]
    assert result["baseline"]["path"].startswith("pacs-")
    assert result["baseline"]["series_uid"] == patient.baseline_series
    assert load_volume(at + patient.followup_series).grid.size_xyz == (56, 40, 30)
    assert not list((tmp_path / "tmp").iterdir())
    sources = read_sources(tmp_path / "out")  # a review fetches them again
    assert sources.baseline == at + patient.baseline_series
    assert sources.followups == (at + patient.followup_series,)
    written = [pydicom.dcmread(path) for path in (tmp_path / "out").glob("*.dcm")]
    assert patient.followup_study in {one.StudyInstanceUID for one in written}


def test_a_series_of_a_pacs_that_is_no_ct_is_refused_without_its_address(
    orthanc, patient, environment
):
    orthanc.add([patient.report])
    uid = pydicom.dcmread(patient.report).SeriesInstanceUID
    with pytest.raises(InputError) as caught:
        load_volume(f"{orthanc.dicom}#{uid}")
    assert str(caught.value).startswith("pacs-")
    with pytest.raises(UsageError, match="needs its UID"):
        load_volume(orthanc.dicom)


def test_who_we_are(orthanc, patient, tmp_path, monkeypatch):
    with pytest.raises(PeerError, match=r"HTTP 401.*TLT_PACS_USER"):
        open_peer(orthanc.url, our_side=OurSide(user=USER, password="wrong")).echo()
    stranger = OurSide(ae_title="STRANGER")
    with pytest.raises(PeerError, match=r"rejects|refused|accepts nothing"):
        open_peer(orthanc.dicom, our_side=stranger).studies(PatientID=patient.id)
    wrong = orthanc.dicom.replace("ORTHANC", "ELSE")
    with pytest.raises(PeerError, match="rejects the association"):
        open_peer(wrong, our_side=OurSide()).echo()
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine 127.0.0.1 login {USER} password {PASSWORD}\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    open_peer(orthanc.url, our_side=OurSide()).echo()


def test_a_file_that_is_no_dicom_is_not_sent(orthanc, environment, tmp_path, capsys):
    bad = tmp_path / "bad.dcm"
    bad.write_bytes(b"\0" * 128 + b"DICM" + b"junk")
    for peer in (orthanc.url, orthanc.dicom):
        assert main(["pacs", "push", str(bad), "--peer", peer]) == 3
        assert "damaged" in capsys.readouterr().err
    (tmp_path / "a.txt").write_text("hello")
    assert main(["pacs", "push", str(tmp_path / "a.txt"), "--peer", orthanc.url]) == 3


# Peers that fail ------------------------------------------------------------------------------


class Answer(BaseHTTPRequestHandler):
    """Answers every request with the server's ``answer``: status, content type, body."""

    def do_GET(self) -> None:
        code, kind, body = self.server.answer  # type: ignore[attr-defined]
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        """Nothing."""


@contextmanager
def server_with(code: int, kind: str, body: bytes) -> Iterator[int]:
    """The port of a web server with one answer."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        server.answer = (code, kind, body)  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


@contextmanager
def raw_server(answer: bytes | None) -> Iterator[int]:
    """The port of a server that answers with some bytes, or never (None)."""
    held = []

    def serve() -> None:
        while True:
            try:
                one, _ = listening.accept()
            except OSError:
                return
            held.append(one)
            if answer is not None:
                one.recv(65536)
                one.sendall(answer)
                one.close()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=serve, daemon=True).start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)
    for one in held:
        one.close()


def fails(peer: Peer, tmp_path: Path, *words: str) -> None:
    """Every operation fails with one line that holds the words and no UID, and writes nothing."""
    folder = tmp_path / "pulled"
    operations = [
        peer.echo,
        lambda: peer.studies(PatientID="PID-4711-ZEBRA"),
        lambda: pull_series(peer, SERIES, folder),
        lambda: peer.fetch(SERIES, None, lambda data: pytest.fail("nothing can arrive")),
        lambda: peer.fetch(SERIES, ["1.2.3.9"], lambda data: pytest.fail("nothing can arrive")),
    ]
    for operation in operations:
        with pytest.raises(PeerError) as caught:
            operation()
        message = str(caught.value)
        assert "\n" not in message
        assert all(word in message for word in words), message
        assert SERIES.study_uid not in message
        assert "ZEBRA" not in message
        assert caught.value.__suppress_context__ or caught.value.__context__ is None
        assert caught.value.exit_code == 5
    assert not folder.exists() or not list(folder.iterdir())


def web(port: int, limits: Limits = IMPATIENT) -> Peer:
    return open_peer(f"http://127.0.0.1:{port}/dicom-web", limits, OurSide())


def dimse(port: int) -> Peer:
    return open_peer(f"dicom://SOME@127.0.0.1:{port}", IMPATIENT, OurSide())


@pytest.mark.parametrize("peer", [web, dimse])
def test_a_peer_that_is_down(peer, tmp_path):
    fails(peer(free_port()), tmp_path, "is the PACS up")


@pytest.mark.parametrize("peer", [web, dimse])
def test_a_peer_that_never_answers(peer, tmp_path):
    with raw_server(None) as port:
        fails(peer(port), tmp_path, "silent for 0.6 s")


@pytest.mark.parametrize(
    ("code", "kind", "body", "words"),
    [
        (200, "text/html", b"<html>Welcome, PID-4711-ZEBRA</html>", "not DICOM"),
        (200, "application/dicom+json", b'[{"0020000D": {"vr": "UI"', "not DICOM"),
        (200, "application/dicom+json", b"[1, 2]", "not DICOM"),
        (200, "application/dicom+json", b'{"0020000D": 7}', "not DICOM"),
        (404, "text/html", b"1.2.3.4.5.6.7", "HTTP 404"),
        (500, "text/html", b"1.2.3.4.5.6.7", "HTTP 500"),
        (503, "text/html", b"", "HTTP 503"),
    ],
)
def test_a_web_server_that_answers_garbage(code, kind, body, words, tmp_path):
    with server_with(code, kind, body) as port:
        fails(web(port), tmp_path, words)


def test_a_redirect_is_not_followed():
    answer = b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:9/\r\n\r\n"
    with raw_server(answer) as port, pytest.raises(PeerError, match="redirect"):
        web(port).echo()


def test_results_come_page_by_page():
    """A server that gives fewer at a time than asked for says so with a warning."""
    uids = [f"1.2.3.{number}" for number in range(7)]

    class Paged(Answer):
        def do_GET(self) -> None:
            query = dict(one.split("=", 1) for one in self.path.split("?")[1].split("&"))
            start = int(query.get("offset", 0))
            page = [{"0020000D": {"vr": "UI", "Value": [uid]}} for uid in uids[start : start + 3]]
            self.send_response(200)
            self.send_header("Content-Type", "application/dicom+json; charset=utf-8")
            if start + 3 < len(uids):
                self.send_header("Warning", '299 test: "There are additional results"')
            self.end_headers()
            self.wfile.write(json.dumps(page).encode())

    with ThreadingHTTPServer(("127.0.0.1", 0), Paged) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert [one.uid for one in web(server.server_port).studies()] == uids
        server.shutdown()


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<html>",
        b"\x02\x00\x00\x00\x00\x04junk",  # an association accepted with nothing in it
        b"\x07\x00\x00\x00\x00\x04\x00\x00\x02\x00",  # aborted by the provider
    ],
)
def test_a_dicom_port_that_answers_garbage(answer, tmp_path):
    with raw_server(answer) as port:
        fails(dimse(port), tmp_path, "127.0.0.1")


def multipart(parts: list[bytes], end: bytes) -> bytes:
    head = b"\r\n--limit\r\nContent-Type: application/dicom\r\n\r\n"
    return b"".join(head + part for part in parts) + end


@pytest.mark.parametrize("end", [b"", b"\r\n--limit--\r\n"])
def test_a_multipart_answer_that_is_cut_is_noticed(patient, tmp_path, end):
    """Cut between parts, and cut within the pixels of the last one."""
    files = [path.read_bytes() for path in sorted(patient.files("baseline"))[:3]]
    uids = [pydicom.dcmread(path).SOPInstanceUID for path in sorted(patient.files("baseline"))[:3]]
    body = multipart([files[0], files[1], files[2][: -200 if end else len(files[2])]], end)
    kind = 'multipart/related; type="application/dicom"; boundary="limit"'
    with server_with(200, kind, body) as port:
        peer = web(port)
        peer.instances = lambda series: uids
        with pytest.raises(PeerError, match=r"broke off|sent 2 of 3"):
            pull_series(peer, SERIES, tmp_path)
    left = {path.read_bytes() for path in tmp_path.iterdir()}
    assert left <= set(files)


def test_answers_are_bounded(tmp_path):
    body = b"[" + b" " * 300_000 + b"]"
    with server_with(200, "application/dicom+json", body) as port:
        peer = web(port, Limits(read_s=5.0, attempts=1, answer_bytes=100_000))
        with pytest.raises(PeerError, match="larger than"):
            peer.echo()


def test_dimse_answers_are_bounded(orthanc, patient):
    ours = OurSide(store_port=orthanc.store_port)
    peer = open_peer(orthanc.dicom, Limits(attempts=1, answer_bytes=2000), ours)
    with pytest.raises(PeerError, match="too large"):
        peer.instances(PeerSeries(patient.baseline_series, patient.baseline_study, "CT", None))


def test_a_store_that_is_not_confirmed_is_an_error(patient):
    for answer in ((200, "text/html", b"<html>thanks</html>"), (409, "text/plain", b"no")):
        with server_with(*answer) as port, pytest.raises(PeerError):
            web(port).store([patient.report])


def test_the_command_says_it_in_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("TLT_PACS_USER", raising=False)
    out = tmp_path / "out"
    with server_with(200, "text/html", b"<html>") as port:
        arguments = ["pacs", "pull", "--peer", f"http://127.0.0.1:{port}", "--output", str(out)]
        assert main([*arguments, "--series", "1.2.3.4.5.6.7.8"]) == 5
        assert main([*arguments, "--series", "1.2.3.4.5.6.7.8", "--verbose"]) == 5
    text = capsys.readouterr()
    assert text.out == ""
    last = text.err.splitlines()[-1]
    assert last.startswith("tlt: error: 127.0.0.1:")
    assert "not DICOM" in last
    assert "1.2.3.4.5" not in text.err
    assert not out.exists()


def test_nothing_of_the_libraries_is_logged(orthanc, patient, tmp_path, caplog, recwarn):
    caplog.set_level(logging.DEBUG)
    for protocol in PROTOCOLS:
        peer = connect(orthanc, protocol)
        (study,) = peer.studies(PatientID=patient.id, StudyDate="20240301-")
        assert repr(study) == "PeerStudy()"
        pull_series(peer, the_series(peer, patient.followup_series), tmp_path / protocol)
        peer.store([patient.report])
    assert not [one for one in patient.secrets if one in caplog.text]
    assert not [one for w in recwarn for one in patient.secrets if one in str(w.message)]


@pytest.mark.parametrize(
    "bad",
    [
        "https://user:pass@host/dicom-web", "ftp://host", "host", "dicom://host:104",
        "dicom://AE@host", "dicom://A-TITLE-OF-17-CHARS@host:104", "https://host/x?y=1",
        "dicom://AE@host:99999999", "https://[::1/x",
    ],
)  # fmt: skip
def test_impossible_addresses(bad):
    with pytest.raises(UsageError) as caught:
        open_peer(bad)
    assert "pass@" not in str(caught.value)
