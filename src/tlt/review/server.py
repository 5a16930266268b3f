"""The review over HTTP: FastAPI around `tlt.review.service.Review`, and nothing of its own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import asdict
from importlib.resources import files
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, RedirectResponse, Response
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, Field

from tlt.errors import InputError, TltError
from tlt.io.cuts import Window
from tlt.recist.page import table_style
from tlt.review.guard import CSRF_HEADER, HEADERS, Guard
from tlt.review.reduced import reduced_nifti
from tlt.review.service import Review
from tlt.review.state import Draft, Kind
from tlt.review.store import Conflict

Answer = Callable[[Request], Awaitable[Response]]

ENDED = (
    "<!doctype html><html lang='en'><title>tlt review</title><h1>This page is closed to you</h1>"
    "<p>Open the address that <code>tlt review</code> printed when it was started last. What you "
    "decided before is saved.</p></html>"
)


class Decide(BaseModel):
    """A reader's decision as the page sends it; ``version`` is what the reader saw."""

    kind: Kind
    lesion_id: str = Field(max_length=500)
    followup: int | None = None
    value: Any = None
    by: str = Field(max_length=200)
    version: int = Field(ge=0)
    request_id: str = Field(min_length=8, max_length=100)


class Undo(BaseModel):
    """A reader's wish to take their last event back."""

    by: str = Field(max_length=200)
    request_id: str = Field(min_length=8, max_length=100)


class Export(BaseModel):
    """The formats to write; the profile of the DICOM SR, where it is to change."""

    formats: list[str] = Field(min_length=1, max_length=50)
    sr_profile: str | None = Field(None, max_length=20)


def make_app(review: Review, guard: Guard, reader: str = "") -> FastAPI:
    """The application; ``reader`` is the name that the page proposes."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    static = files("tlt") / "review" / "static"
    app.mount("/static", StaticFiles(directory=str(static)))
    _guard(app, guard)
    _explain_errors(app)
    _pages(app, guard)
    _reading(app, review, guard, reader, has_3d=(static / "niivue" / "view3d.js").is_file())
    _deciding(app, review)
    return app


def _guard(app: FastAPI, guard: Guard) -> None:
    """Let through only what `tlt.review.guard` allows."""

    @app.middleware("http")
    async def check(request: Request, answer: Answer) -> Response:
        response = _refusal(request, guard) or await answer(request)
        response.headers.update(HEADERS)
        return response


def _refusal(request: Request, guard: Guard) -> Response | None:
    if not guard.right_host(request.headers.get("host", "")):
        return _error(403, "this server answers only to its own address on this machine")
    if request.url.path == "/" and guard.right_token(request.query_params.get("token")):
        return None
    if not guard.right_token(request.cookies.get(guard.cookie)):
        if request.url.path == "/":
            return HTMLResponse(ENDED, 401)
        return _error(401, "the session has ended; open the address that tlt review printed")
    if request.method != "GET" and not (
        guard.right_csrf(request.headers.get(CSRF_HEADER))
        and guard.right_origin(request.headers.get("origin"))
    ):
        return _error(403, "this change did not come from the review's own page; reload it")
    return None


def _explain_errors(app: FastAPI) -> None:
    @app.exception_handler(Conflict)
    async def conflict(request: Request, error: Conflict) -> Response:
        return JSONResponse({"error": str(error), "event": asdict(error.event)}, 409)

    @app.exception_handler(TltError)
    async def expected(request: Request, error: TltError) -> Response:
        return _error(422 if isinstance(error, InputError) else 500, str(error))

    @app.exception_handler(RequestValidationError)
    async def malformed(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        return _error(422, f"{first['loc'][-1]}: {first['msg']}")


def _pages(app: FastAPI, guard: Guard) -> None:
    @app.get("/recist.css")
    def style() -> Response:
        return Response(table_style(), media_type="text/css")

    @app.get("/")
    def page(token: str | None = None) -> Response:
        if token is None:
            source = files("tlt").joinpath("review/static/review.html")
            return HTMLResponse(source.read_text(encoding="utf-8"))
        # The token leaves the address bar, and with it the browser's history.
        answer = RedirectResponse("/", 303)
        answer.set_cookie(guard.cookie, guard.token, httponly=True, samesite="strict")
        return answer


def _reading(app: FastAPI, review: Review, guard: Guard, reader: str, has_3d: bool) -> None:
    @app.get("/api/state")
    def state() -> dict[str, Any]:
        return {**review.state(), "csrf": guard.csrf, "reader": reader, "has_3d": has_3d}

    @app.get("/api/recist")
    def recist() -> dict[str, Any]:
        return review.recist()

    @app.get("/api/windows")
    def windows() -> dict[str, str]:
        return review.windows()

    @app.get("/api/history")
    def history() -> list[dict[str, Any]]:
        return review.history()

    @app.get("/api/images/{number}/sheet")
    def sheet(number: int) -> dict[str, Any]:
        review.shelf.stack(number)
        return review.image(number)

    @app.get("/api/images/{number}/slice")
    def slice_(number: int, plane: str, index: int, level: float, width: float) -> Response:
        png = review.shelf.stack(number).png(plane, index, Window("", level, width))
        return Response(png, media_type="image/png")

    @app.get("/api/images/{number}/reduced.nii")
    def reduced(number: int) -> Response:
        nifti = reduced_nifti(review.shelf.stack(number).volume)
        return Response(nifti, media_type="application/octet-stream")

    @app.get("/api/files/{name}")
    def exported(name: str) -> Response:
        return FileResponse(review.exported_file(name), filename=name)


def _deciding(app: FastAPI, review: Review) -> None:
    @app.post("/api/events")
    def decide(wish: Decide) -> dict[str, Any]:
        draft = Draft(wish.kind, wish.lesion_id, wish.followup, wish.value)
        event, warning = review.decide(draft, wish.by, wish.version, wish.request_id)
        return {"event": asdict(event), "warning": warning, "state": review.state()}

    @app.post("/api/undo")
    def undo(wish: Undo) -> dict[str, Any]:
        event, warning = review.undo(wish.by, wish.request_id)
        return {"event": asdict(event), "warning": warning, "state": review.state()}

    @app.post("/api/export")
    def export(wish: Export) -> dict[str, Any]:
        files = review.export(wish.formats, wish.sr_profile)
        return {"files": files, "folder": review.folder.name}


def _error(code: int, message: str) -> Response:
    return JSONResponse({"error": message}, code)
