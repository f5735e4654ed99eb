"""Asks an app of ours without a socket, one question at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any

import httpx
from fastapi import FastAPI

TOKEN = "secret"
PERMITTED = {"Authorization": f"Bearer {TOKEN}"}


class LocalClient:
    """Who has the token, unless told otherwise.

    Args:
        app: whom to ask.
        base: the address by which the app is called.
        headers: of every question.
    """

    def __init__(
        self, app: FastAPI, base: str = "http://127.0.0.1:8000", headers: Mapping[str, str] = PERMITTED
    ) -> None:
        self._app, self._base, self._headers = app, base, dict(headers)

    def get(self, path: str, headers: Mapping[str, Any] | None = None) -> httpx.Response:
        return self._ask("GET", path, headers=headers)

    def post(self, path: str, json: Any = None, content: bytes | Iterable[bytes] | None = None) -> httpx.Response:
        parts = content if content is None or isinstance(content, bytes) else _later(content)
        return self._ask("POST", path, json=json, content=parts)

    def _ask(self, method: str, path: str, **what: Any) -> httpx.Response:
        async def asked() -> httpx.Response:
            transport = httpx.ASGITransport(self._app)
            async with httpx.AsyncClient(transport=transport, base_url=self._base, headers=self._headers) as client:
                return await client.request(method, path, **what)

        return asyncio.run(asked())


async def _later(parts: Iterable[bytes]) -> AsyncIterator[bytes]:
    for part in parts:
        yield part
