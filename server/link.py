"""How do hospitals reach the lab, and nobody else? Flower's SuperLink behind two guarded TLS listeners, in one process.

Stock Flower answers everything on one port: whoever reaches it may submit a run, register a key or take the ServerApp's
task. Here the public listener answers what a node needs and nothing else, and the administration listener, on loopback,
asks for a secret that only the lab's own account can read. All that is done to Flower's insides is done in this module
and in ``server/grid.py``, for 1.41; tests/test_flower_contract.py says what broke.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import os
import signal
import ssl
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from flwr.common.constant import ISOLATION_MODE_PROCESS, TRANSPORT_TYPE_GRPC_RERE
from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState
from flwr.supercore import telemetry
from flwr.superlink import main as superlink
from flwr.superlink.cli.flower_superlink import SuperLinkLifespan
from flwr.superlink.config_loader import SuperLinkLifespanConfig, load_control_authn_plugin
from starlette.middleware import Middleware

from bioface_core.logs import say

_log = logging.getLogger("bioface.link")
_FLOWERS_MIDDLEWARE = superlink._get_middleware
_FLOWERS_ACTIVATION = SqlLinkState.activate_node

ADMIN_HEADER = "x-bioface-admin"
LOOPBACK = "127.0.0.1"
_BODY_LIMIT = 16 * 2**20  # bytes; Flower sends arrays in chunks of 5 MiB
_NODE_PATHS = frozenset(
    f"/v1/fleet/{name}"
    for name in (
        "activate-node",
        "deactivate-node",
        "send-node-heartbeat",
        "pull-messages",
        "push-messages",
        "get-run",
        "get-fab",
        "push-object",
        "pull-object",
        "confirm-message-received",
    )
)
_NODES_AND_HEALTH = _NODE_PATHS | {"/health"}

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


@dataclass(frozen=True)
class LinkSettings:
    """Where the SuperLink listens, and what it holds.

    Attributes:
        public: host and port for the hospitals.
        admin_port: on loopback.
        health_port: gRPC health protocol, on loopback.
        certificate: of the server, PEM.
        key: its private key, PEM.
        authority: the CA's certificate, PEM.
        secret: file of the secret of the lab's own processes.
        database: SQLite file.
    """

    public: tuple[str, int]
    admin_port: int
    health_port: int
    certificate: Path
    key: Path
    authority: Path
    secret: Path
    database: Path


def run_link(settings: LinkSettings) -> None:
    """Serves until SIGTERM."""
    os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
    telemetry.FLWR_TELEMETRY_ENABLED = "0"  # the module may have been loaded before the environment was set
    vars(superlink)["_get_middleware"] = _needed_middleware
    SqlLinkState.activate_node = _activate_anew  # type: ignore[assignment, method-assign]
    app = superlink.create_app(_flower_settings(settings), SuperLinkLifespan)
    asyncio.run(_serve(app, settings))


def _activate_anew(state: SqlLinkState, node_id: int, heartbeat_interval: float) -> bool:
    """Lets a node back in that was killed: Flower would wait for a minute until it holds the old one for dead.

    It is the same hospital, for it has the same key; and the round loop sees that it was started anew.
    """
    state.deactivate_node(node_id)
    return _FLOWERS_ACTIVATION(state, node_id, heartbeat_interval)


def _needed_middleware() -> list[Middleware]:
    """Flower's layers around a request, less those that do nothing here: accounts' licences, event logs, tracing.

    Nine layers cost as much as the request itself, and a round of three hospitals makes some two hundred requests.
    """
    needed = {"http_error_translator", "ControlAuthenticationMiddleware", "ProtobufTranslationMiddleware"}
    needed |= {"NodeAuthMiddleware"}
    return [layer for layer in _FLOWERS_MIDDLEWARE() if _layer_name(layer) in needed]


def _layer_name(layer: Middleware) -> str:
    return str(getattr(layer.kwargs.get("dispatch", layer.cls), "__name__", ""))


class PublicGuard:
    """Lets a node's requests through, each of a bounded size, and refuses the rest.

    Args:
        app: the SuperLink.
    """

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            return
        if scope["path"] not in _NODES_AND_HEALTH:
            return await _refuse(scope, send, 404, "not a node's request")
        if _length(scope) > _BODY_LIMIT:
            return await _refuse(scope, send, 413, "too large")
        await self._app(scope, receive, _noting_refusals(scope, send))


class AdminGuard:
    """Lets requests through that carry the secret.

    Args:
        app: the SuperLink.
        secret: what ``ADMIN_HEADER`` must hold.
    """

    def __init__(self, app: App, secret: str) -> None:
        self._app, self._secret = app, secret.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or the start and end of the application."""
        if scope["type"] == "http" and not hmac.compare_digest(_header(scope, ADMIN_HEADER), self._secret):
            return await _refuse(scope, send, 401, "without the lab's secret")
        await self._app(scope, receive, send)


async def _serve(app: App, settings: LinkSettings) -> None:
    """Both listeners, until a signal or until one of them ends; the public one only while the other is up."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    secret = settings.secret.read_text(encoding="ascii")
    admin = _listener(AdminGuard(app, secret), LOOPBACK, settings.admin_port, settings, lifespan="on")
    public = _listener(PublicGuard(app), *settings.public, settings, lifespan="off")
    serving = [asyncio.create_task(admin.serve())]
    while not admin.started and not serving[0].done():
        await asyncio.sleep(0.02)
    serving.append(asyncio.create_task(public.serve()))
    say(_log, "listening", public=f"{settings.public[0]}:{settings.public[1]}", admin_port=settings.admin_port)
    await asyncio.wait([*serving, asyncio.create_task(stop.wait())], return_when=asyncio.FIRST_COMPLETED)
    public.should_exit = admin.should_exit = True
    for server in reversed(serving):
        await server


def _listener(app: App, host: str, port: int, settings: LinkSettings, lifespan: Any) -> uvicorn.Server:
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        lifespan=lifespan,
        log_config=None,
        access_log=False,
        ws="none",
        server_header=False,
        ssl_certfile=settings.certificate,
        ssl_keyfile=settings.key,
        timeout_graceful_shutdown=2,
    )
    config.load()
    assert config.ssl is not None, "both listeners speak TLS"
    config.ssl.sslobject_class = _NotingHandshake
    server = uvicorn.Server(config)
    server.capture_signals = _no_signals  # type: ignore[method-assign]
    return server


class _NotingHandshake(ssl.SSLObject):
    """Logs who does not get as far as a request: asyncio keeps a handshake that failed to itself."""

    def do_handshake(self) -> None:
        """One step of it; most of them end by waiting for the other side."""
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            say(_log, "refused", logging.WARNING, path="", status=0, why=f"no TLS with us: {error.reason}")
            raise


@contextmanager
def _no_signals() -> Iterator[None]:
    """Two servers in one process cannot both have the signals; ``_serve`` has them."""
    yield


async def _refuse(scope: Scope, send: Send, status: int, why: str) -> None:
    """Answers nothing but a number, and logs who asked for what."""
    _note_refusal(scope, status, why)
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


def _noting_refusals(scope: Scope, send: Send) -> Send:
    """``send`` that logs what Flower itself refuses: a key it does not know, a clock that is wrong."""

    async def noting(event: MutableMapping[str, Any]) -> None:
        if event["type"] == "http.response.start" and event["status"] in (401, 403):
            _note_refusal(scope, event["status"], "unknown or revoked key, or a clock that is wrong")
        await send(event)

    return noting


def _note_refusal(scope: Scope, status: int, why: str) -> None:
    client = scope.get("client") or ("?", 0)
    say(_log, "refused", logging.WARNING, path=scope["path"][:64], status=status, why=why, address=client[0])


def _header(scope: Scope, name: str) -> bytes:
    return next((bytes(value) for key, value in scope["headers"] if key == name.encode()), b"")


def _length(scope: Scope) -> int:
    """What the request says its body is long; without it (chunked), more than is allowed."""
    length = _header(scope, "content-length")
    if length.isdigit():
        return int(length)
    return _BODY_LIMIT + 1 if _header(scope, "transfer-encoding") else 0


def _flower_settings(settings: LinkSettings) -> SuperLinkLifespanConfig:
    """As ``flower-superlink`` makes them from its options."""
    certificates = (settings.authority.read_bytes(), settings.certificate.read_bytes(), settings.key.read_bytes())
    return SuperLinkLifespanConfig(
        control_address=f"{LOOPBACK}:{settings.admin_port}",
        health_server_address=f"{LOOPBACK}:{settings.health_port}",
        host=LOOPBACK,
        port=settings.admin_port,
        insecure=False,
        certificates=certificates,
        superexec_auth_secret=settings.secret.read_bytes(),
        authn_plugin=load_control_authn_plugin(),
        event_log_plugin=None,
        fleet_event_log_plugin=None,
        enable_event_log=False,
        artifact_provider=None,
        enable_supernode_auth=True,
        fleet_api_type=TRANSPORT_TYPE_GRPC_RERE,
        fleet_api_address=None,
        simulation=False,
        ssl_ca_certfile=str(settings.authority),
        ssl_certfile=str(settings.certificate),
        ssl_keyfile=str(settings.key),
        database=str(settings.database),
        isolation=ISOLATION_MODE_PROCESS,
        runtime_dependency_install=False,
    )
