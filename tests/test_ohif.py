"""The SR of the profile ``ohif`` in the real OHIF: hydrated into measurements that can be edited.

OHIF comes from the npm registry (``npm pack @ohif/app``), or from the folder TLT_OHIF. A small
server hands it out and passes ``/dicom-web`` on to a real Orthanc.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import LPS, make_phantom, torso_grid, write_dicom_series
from marks import at, found, need

from tlt.io.dicom_sr_write import write_sr
from tlt.io.images import load_volume
from tlt.lesion import Axis, Lesion, Match, Size, Status

orthanc = pytest.importorskip("orthanc", reason="the helper of the PACS tests is not there")

OHIF = "@ohif/app@3.13.2"
CHROMIUM = (
    "--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
    "--ignore-gpu-blocklist", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--disable-quic", "--no-first-run",
)  # fmt: skip
CONFIG = """window.config = {
  routerBasename: null, extensions: [], modes: [], customizationService: {}, showStudyList: true,
  maxNumberOfWebWorkers: 1, investigationalUseDialog: {option: 'never'},
  defaultDataSourceName: 'dicomweb',
  dataSources: [{
    namespace: '@ohif/extension-default.dataSourcesModule.dicomweb', sourceName: 'dicomweb',
    configuration: {
      friendlyName: 'test', name: 'test', wadoUriRoot: '/dicom-web', qidoRoot: '/dicom-web',
      wadoRoot: '/dicom-web', imageRendering: 'wadors', thumbnailRendering: 'wadors',
      enableStudyLazyLoad: true, omitQuotationForMultipartRequest: true,
      bulkDataURI: {enabled: true}}}]};"""
TYPES = {".js": "application/javascript", ".css": "text/css", ".html": "text/html",
         ".wasm": "application/wasm", ".svg": "image/svg+xml"}  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a built OHIF."""
    given = os.environ.get("TLT_OHIF")
    if given:
        return Path(given)
    if os.environ.get("TLT_TEST_ALL") != "1":
        pytest.skip("OHIF is fetched with TLT_TEST_ALL=1 only")
    need("npm")
    folder = tmp_path_factory.mktemp("ohif")
    subprocess.run(["npm", "pack", "--silent", OHIF], cwd=folder, check=True, timeout=300)
    with tarfile.open(next(folder.glob("*.tgz"))) as archive:
        archive.extractall(folder, filter="data")
    return folder / "package" / "dist"


@pytest.fixture
def pacs(tmp_path: Path) -> Iterator[orthanc.Orthanc]:
    if not Path("/usr/sbin/Orthanc").exists():  # which is not in everybody's PATH
        need("Orthanc")
    server = orthanc.Orthanc(tmp_path / "orthanc")
    server.start()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture
def address(site: Path, pacs: orthanc.Orthanc) -> Iterator[str]:
    """Where OHIF is to be found, its archive on the same origin."""
    import uvicorn

    port = orthanc.free_port()
    base = f"http://127.0.0.1:{port}"
    config = uvicorn.Config(_app(site, pacs, base), "127.0.0.1", port, log_level="error")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    yield base
    server.should_exit = True
    thread.join(10)


def _app(site: Path, pacs: orthanc.Orthanc, base: str):
    import httpx
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    client = httpx.AsyncClient(auth=(orthanc.USER, orthanc.PASSWORD), timeout=60)

    async def archive(request: Request) -> Response:
        kept = {k: v for k, v in request.headers.items() if k in ("accept", "content-type")}
        answer = await client.request(
            request.method, f"{pacs.url}/{request.path_params['path']}",
            params=request.query_params, content=await request.body(), headers=kept,
        )  # fmt: skip
        kind = answer.headers.get("content-type", "")
        content = answer.content
        if "json" in kind:
            content = content.replace(pacs.root.encode(), base.encode())
        return Response(content, answer.status_code, {"content-type": kind})

    async def page(request: Request) -> Response:
        path = site / request.path_params["path"]
        if path.name == "app-config.js":
            return Response(CONFIG, media_type=TYPES[".js"])
        path = path if path.is_file() else site / "index.html"
        isolated = {"Cross-Origin-Opener-Policy": "same-origin",
                    "Cross-Origin-Embedder-Policy": "require-corp"}  # fmt: skip
        kind = TYPES.get(path.suffix, "application/octet-stream")
        return Response(path.read_bytes(), 200, isolated, media_type=kind)

    return Starlette(
        routes=[
            Route("/dicom-web/{path:path}", archive, methods=["GET", "POST"]),
            Route("/{path:path}", page),
        ]
    )


@pytest.mark.slow
def test_ohif_takes_the_measurements_over(
    tmp_path: Path, pacs: orthanc.Orthanc, address: str
) -> None:
    need("chromium")
    from playwright.sync_api import sync_playwright

    study = _study(tmp_path, pacs)
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=CHROMIUM)
        view = browser.new_page(viewport={"width": 1366, "height": 768})
        said: list[str] = []
        view.on("console", lambda message: said.append(message.text))
        view.on("pageerror", lambda error: said.append(f"PAGE ERROR {error}"))
        view.goto(f"{address}/viewer?StudyInstanceUIDs={study}", timeout=90_000)
        report = view.locator("[data-cy='study-browser-thumbnail-no-image']").first
        report.wait_for(timeout=90_000)
        view.wait_for_timeout(3000)
        view.evaluate("document.querySelectorAll('[class^=shepherd]').forEach(e => e.remove())")
        report.dblclick()
        view.get_by_text("Yes", exact=True).first.click(timeout=60_000)
        view.get_by_text("L1: liver dome").first.wait_for(timeout=60_000)
        shown = view.inner_text("body")
        view.screenshot(path=str(tmp_path / "ohif.png"))
        browser.close()
    tools = [line.strip("= ") for line in said if line.startswith("===")]
    assert sorted(tools) == ["ArrowAnnotate", "Bidirectional", "Length"]
    assert "L: 30.0 mm" in shown
    assert "W: 24.0 mm" in shown
    assert not [line for line in said if line.startswith("PAGE ERROR")]


def _study(folder: Path, pacs: orthanc.Orthanc) -> str:
    """A CT of three balls and the SR of what was found of four lesions, in the archive."""
    import pydicom

    grid = torso_grid((128, 96, 24), (3.0, 3.0, 5.0), LPS)
    places = [at(grid, 10, 40, 70), at(grid, 14, 30, 30), at(grid, 6.4, 60, 90)]
    write_dicom_series(
        make_phantom(grid, [(p, 15.0, 120.0) for p in places]), folder / "ct",
        StudyDate="20240131", StudyTime="101010", StudyID="1", PatientPosition="HFS",
        SeriesDescription="CT", WindowCenter=40, WindowWidth=400,
    )  # fmt: skip
    both = Size(Axis(at(grid, 10, 40, 65), at(grid, 10, 40, 75)),
                Axis(at(grid, 10, 36, 70), at(grid, 10, 44, 70)), 14000.0)  # fmt: skip
    one = Size(Axis(at(grid, 14, 30, 27), at(grid, 14, 30, 33)))
    lesions = [
        Lesion("L1", places[0], 15.0, "liver dome", size=both, site="Liver"),
        Lesion("L2", places[1], 9.0, size=one, nodal=True),
        Lesion("L3", places[2], 10.0, "a point"),
    ]
    gone = Lesion("L4", at(grid, 3, 60, 50), 10.0)
    matches = [*found(lesions), Match(gone, Status.NOT_FOUND, gone.center_mm, 0.1, gone.center_mm)]
    volume = load_volume(folder / "ct")
    assert np.allclose(volume.grid.origin_mm, grid.origin_mm)
    write_sr(matches, volume, folder / "sr.dcm", "ohif")
    pacs.add([*sorted((folder / "ct").iterdir()), folder / "sr.dcm"])
    return str(pydicom.dcmread(folder / "sr.dcm").StudyInstanceUID)
