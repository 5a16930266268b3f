"""A real Orthanc for tests: on free ports, with a password, started and stopped by its pid."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

USER, PASSWORD = "tester", "loopback-only"
PLUGINS = (
    "/usr/share/orthanc/plugins/libOrthancDicomWeb.so",
    "/usr/lib/orthanc/libOrthancDicomWeb.so",
    "/usr/local/share/orthanc/plugins/libOrthancDicomWeb.so",
)


def free_port() -> int:
    """A port of the loopback that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Orthanc:
    """An Orthanc whose database in ``folder`` outlives `stop` and `start`.

    Attributes:
        url: its DICOMweb address.
        dicom: its DIMSE address.
        store_port: where it sends what a C-MOVE to ``TLT`` asks for.
    """

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder
        self.http_port, self.dicom_port, self.store_port = (free_port() for _ in range(3))
        self.root = f"http://127.0.0.1:{self.http_port}"
        self.url = f"{self.root}/dicom-web"
        self.dicom = f"dicom://ORTHANC@127.0.0.1:{self.dicom_port}"
        self._process: subprocess.Popen | None = None
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "orthanc.json").write_text(json.dumps(self._settings() | settings))

    def _settings(self) -> dict[str, Any]:
        return {
            "Name": "tlt-tests",
            "HttpPort": self.http_port,
            "DicomPort": self.dicom_port,
            "DicomAet": "ORTHANC",
            "DicomCheckCalledAet": True,
            "DicomAlwaysAllowEcho": False,
            "DicomAlwaysAllowStore": False,
            "DicomModalities": {
                "tlt": {
                    "AET": "TLT",
                    "Host": "127.0.0.1",
                    "Port": self.store_port,
                    **{f"Allow{one}": True for one in ("Echo", "Find", "Get", "Move", "Store")},
                }
            },
            "StorageDirectory": str(self.folder / "db"),
            "IndexDirectory": str(self.folder / "db"),
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": True,
            "RegisteredUsers": {USER: PASSWORD},
            "Plugins": [next(path for path in PLUGINS if os.path.exists(path))],
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
            "StableAge": 2,
            "OverwriteInstances": False,
            "TemporaryDirectory": str(self.folder),
        }

    def start(self) -> None:
        """Start it and wait until it answers."""
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [_program(), str(self.folder / "orthanc.json")], stdout=log, stderr=log
            )
        for _ in range(200):
            try:
                requests.get(f"{self.root}/system", auth=(USER, PASSWORD), timeout=1)
                return
            except requests.ConnectionError:
                if self._process.poll() is not None:
                    break
                time.sleep(0.05)
        raise RuntimeError((self.folder / "log").read_text()[-2000:])

    def stop(self) -> None:
        """Stop it, by its pid; what it stored stays."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def get(self, path: str) -> Any:
        """What its own REST interface answers: JSON, or bytes of a file."""
        answer = requests.get(f"{self.root}{path}", auth=(USER, PASSWORD), timeout=10)
        answer.raise_for_status()
        is_json = "json" in answer.headers.get("Content-Type", "")
        return answer.json() if is_json else answer.content

    def find(self, level: str = "Instance", **query: str) -> list[str]:
        """Orthanc's own ids of what matches."""
        body = {"Level": level, "Query": query}
        answer = requests.post(
            f"{self.root}/tools/find", json=body, auth=(USER, PASSWORD), timeout=10
        )
        answer.raise_for_status()
        return answer.json()

    def add(self, paths: Sequence[Path]) -> None:
        """Store files, as a scanner would."""
        with requests.Session() as session:
            session.auth = (USER, PASSWORD)
            for path in paths:
                session.post(
                    f"{self.root}/instances", data=path.read_bytes(), timeout=10
                ).raise_for_status()

    def remove(self, level: str, **query: str) -> None:
        """Remove what matches."""
        for one in self.find(level, **query):
            kinds = {"Instance": "instances", "Series": "series", "Study": "studies"}
            requests.delete(
                f"{self.root}/{kinds[level]}/{one}", auth=(USER, PASSWORD), timeout=10
            ).raise_for_status()


def _program() -> str:
    return shutil.which("Orthanc") or "/usr/sbin/Orthanc"


def need_orthanc() -> None:
    """Skip the test where Orthanc is not installed, unless everything must run."""
    there = os.path.exists(_program()) and any(map(os.path.exists, PLUGINS))
    if not there and os.environ.get("TLT_TEST_ALL") != "1":
        pytest.skip("Orthanc or its DICOMweb plugin is not installed")


@contextmanager
def running_orthanc(folder: Path, **settings: Any) -> Iterator[Orthanc]:
    """An Orthanc for the time of the block."""
    need_orthanc()
    orthanc = Orthanc(folder, **settings)
    try:
        orthanc.start()
        yield orthanc
    finally:
        orthanc.stop()
