"""Who may ask a page of ours, and what may it do? Whoever was shown its address, on this machine, and nobody else.

A page is served to the loopback address. That alone keeps out neither other accounts of this machine nor a web page
that the same browser has open elsewhere, so

    host       must be this machine's own name: a foreign name that is made to point here is refused (DNS rebinding)
    token      drawn at each start; it stands behind the # of the address, which no browser sends on. The page shows
               nothing by itself: whatever it shows it asks of ``/api/``, with the token
    headers    the page may load nothing from elsewhere, send nothing elsewhere, and be framed and kept by nobody
    body       has a largest size and stays in memory: nothing here writes a file or a line of a log
"""

from __future__ import annotations

import hmac
import json
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import NewType

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bioface_core.errors import UserError
from bioface_core.web import STYLE

Token = NewType("Token", str)
LARGEST_BODY = 160 * 2**20  # bytes: a dozen photos of a telephone, as base64
_HOSTS = frozenset({"127.0.0.1", "localhost", "[::1]"})
_API = "/api/"
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


def new_token() -> Token:
    """A token that nobody can guess."""
    return Token(secrets.token_urlsafe(24))


def local_app(token: Token, assets: Mapping[str, Path], largest_body: int = LARGEST_BODY) -> FastAPI:
    """An app with a page and its parts, to which ``/api/`` routes are added.

    A ``UserError`` of a route is answered with status 400 and ``{"error": one line}``; so is a body that is not what
    the route takes.

    Args:
        token: what ``/api/`` asks for, as a bearer token.
        assets: path -> file, such as ``{"/": page.html}``; read once. The house style is there as ``/style.css``.
        largest_body: bytes of a request.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(_Door, token=token, largest_body=largest_body)
    app.add_exception_handler(UserError, _mistake)
    app.add_exception_handler(RequestValidationError, _unexpected)
    for path, file in {"/style.css": STYLE, **assets}.items():
        _serve(app, path, file)
    return app


def _serve(app: FastAPI, path: str, file: Path) -> None:
    content, kind = file.read_bytes(), _TYPES[file.suffix]

    @app.get(path, include_in_schema=False)
    async def asset() -> Response:
        return Response(content, media_type=kind)


async def _mistake(_: Request, error: Exception) -> Response:
    return JSONResponse({"error": " ".join(str(error).split())}, status_code=400)


async def _unexpected(_: Request, error: Exception) -> Response:
    """Says where the body is wrong, not what stood there: that may be a photo."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"][1:]) or "the request"
    return JSONResponse({"error": f"{place}: {first['msg']}"}, status_code=400)


class _Door:
    """Middleware: refuses who may not ask, and adds the headers."""

    def __init__(self, app: ASGIApp, token: Token, largest_body: int) -> None:
        self._app, self._token, self._largest_body = app, token, largest_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        refused = self._refusal(scope)
        if refused is None:
            body = await _read(receive, self._largest_body)
            refused = self._too_large() if body is None else None
        if refused is not None:
            status, why = refused
            return await _say(guarded, status, why)
        assert body is not None
        await self._app(scope, _given(body), guarded)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        """Why a request is not let in, told from its head."""
        headers = Headers(scope=scope)
        if headers.get("host", "").rpartition(":")[0] not in _HOSTS and headers.get("host", "") not in _HOSTS:
            return 421, "this page answers to 127.0.0.1 and localhost only"
        if not scope["path"].startswith(_API):
            return None
        shown = headers.get("authorization", "").removeprefix("Bearer ").encode()
        if not hmac.compare_digest(shown, self._token.encode()):
            return 401, "open the address that the command printed, with all that stands behind the #"
        declared = headers.get("content-length", "0")
        return self._too_large() if declared.isdigit() and int(declared) > self._largest_body else None

    def _too_large(self) -> tuple[int, str]:
        return 413, f"more than {self._largest_body // 2**20} MiB at once: choose fewer or smaller photos"


async def _read(receive: Receive, largest: int) -> bytes | None:
    """The whole body, in memory; None where it is too large."""
    body, more = bytearray(), True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > largest:
            return None
    return bytes(body)


def _given(body: bytes) -> Receive:
    """What hands on a body that has been read."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        return waiting.pop() if waiting else {"type": "http.disconnect"}

    return receive


async def _say(send: Send, status: int, why: str) -> None:
    content = json.dumps({"error": why}).encode()
    kinds = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": kinds})
    await send({"type": "http.response.body", "body": content})
