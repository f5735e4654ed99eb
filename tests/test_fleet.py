"""Does Flower, in the version that we hold it to, say whether it knows a key, and change nothing by it?"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
import uvicorn
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from flwr.proto.fleet_pb2 import ActivateNodeRequest
from flwr.proto.node_pb2 import NodeInfo
from flwr.supercore.date import now
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.superlink.cli.flower_superlink import SuperLinkLifespan
from flwr.superlink.main import create_app
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from client.connection import CHECKS, LabAddress, trusting
from client.finding import examine
from client.fleet import Standing, _standing, ask_standing
from server.grid import Admin, AdminAddress
from server.link import LinkSettings, PublicGuard, _flower_settings
from tests.certificates import make_authority
from tests.test_health import free_port

# Flower's own database migrations, in its own words.
pytestmark = pytest.mark.filterwarnings("ignore:No path_separator found:DeprecationWarning")


class NodeKey:
    """A hospital's node key, in a file as Flower wants it."""

    def __init__(self, folder: Path) -> None:
        self.private = ec.generate_private_key(ec.SECP384R1())
        self.public = public_key_to_bytes(self.private.public_key())
        self.path = folder / "node.key"
        text = self.private.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
        self.path.write_bytes(text)


@dataclass(frozen=True)
class Link:
    """A SuperLink in a thread of this process: what a hospital needs, and its administrator."""

    address: str
    authority: Path
    admin: Admin

    def standing(self, key: NodeKey) -> Standing:
        return ask_standing(self.address, self.authority, key.path)

    def node(self, key: NodeKey) -> NodeInfo | None:
        return self.admin.nodes().get(key.public)


@pytest.fixture(scope="module")
def link(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Link]:
    """Flower's own application with node authentication, and the guard of the public listener before a second one."""
    folder = tmp_path_factory.mktemp("link")
    authority, secret = make_authority(folder), folder / "superexec.secret"
    certificate, key = authority.issue(folder)
    secret.write_text("0" * 64)
    public = ("127.0.0.1", free_port())
    settings = LinkSettings(
        public, free_port(), free_port(), certificate, key, authority.path, secret, folder / "state.db"
    )
    app = create_app(_flower_settings(settings), SuperLinkLifespan)
    with _listening(app, settings.admin_port, settings, "on"), _listening(PublicGuard(app), public[1], settings, "off"):
        admin = Admin(AdminAddress(f"127.0.0.1:{settings.admin_port}", authority.path, secret))
        yield Link(f"127.0.0.1:{public[1]}", authority.path, admin)
        admin.close()


class _listening:  # noqa: N801 - used as a function
    """A uvicorn server in a thread."""

    def __init__(self, app: object, port: int, settings: LinkSettings, lifespan: str) -> None:
        certificate, key = settings.certificate, settings.key
        self._server = uvicorn.Server(
            uvicorn.Config(
                app,  # type: ignore[arg-type]
                port=port,
                lifespan=lifespan,  # type: ignore[arg-type]
                ws="none",
                log_config=None,
                ssl_certfile=certificate,
                ssl_keyfile=key,
                timeout_graceful_shutdown=1,
            )
        )
        self._thread = threading.Thread(target=self._server.run, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()
        until = time.monotonic() + 10
        while not self._server.started:
            assert time.monotonic() < until, "the SuperLink does not start"
            time.sleep(0.02)

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(20)


def test_a_key_is_unknown_then_known_then_unknown_again(link: Link, tmp_path: Path) -> None:
    key = NodeKey(tmp_path)
    assert link.standing(key) is Standing.UNKNOWN
    link.admin.register(key.public, "hospital")
    assert link.standing(key) is Standing.KNOWN
    node = link.node(key)
    assert node is not None
    link.admin.unregister(node.node_id)
    assert link.standing(key) is Standing.UNKNOWN


def test_asking_changes_nothing(link: Link, tmp_path: Path) -> None:
    """Neither a node that was never there comes to life, nor one that works is started anew."""
    key = NodeKey(tmp_path)
    link.standing(key)
    assert link.node(key) is None
    link.admin.register(key.public, "hospital")
    before = link.node(key)
    link.standing(key)
    assert link.node(key) == before and before is not None and before.status == "registered"
    signed = NodeAuthHttpInterceptor(key.private, key.private.public_key())
    with FleetHttpClient(f"https://{link.address}", interceptors=[signed], verify=trusting(link.authority)) as node:
        node.ActivateNode(ActivateNodeRequest(public_key=key.public, heartbeat_interval=30))
    online = link.node(key)
    assert online is not None and online.status == "online"
    assert link.standing(key) is Standing.KNOWN
    assert link.node(key) == online


def test_a_signature_that_is_not_this_key_s_is_refused(
    link: Link, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = NodeKey(tmp_path)
    link.admin.register(key.public, "hospital")
    monkeypatch.setattr("flwr.supernode.node_auth_http_interceptor.sign_message", lambda key, message: b"forged")
    assert link.standing(key) is Standing.REFUSED


def test_a_clock_that_is_ahead_is_refused(link: Link, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flwr.supernode.node_auth_http_interceptor.now", lambda: now() + timedelta(seconds=10))
    assert link.standing(NodeKey(tmp_path)) is Standing.REFUSED


def test_the_way_to_it_is_found_in_order(link: Link) -> None:
    """Above all: its answer to ``GET /health`` holds the time, through the guard."""
    host, _, port = link.address.partition(":")
    found = examine(CHECKS, LabAddress(host, int(port), link.authority))
    assert [one.ok for one in found] == [True] * len(CHECKS), found


def test_nobody_there(link: Link, tmp_path: Path) -> None:
    with pytest.raises(httpx.HTTPError):
        ask_standing(f"127.0.0.1:{free_port()}", link.authority, NodeKey(tmp_path).path)


@pytest.mark.parametrize("text", ["", "<html>", json.dumps({"code": 99, "detail": ""}), json.dumps([1])])
def test_any_other_answer_is_unclear(text: str) -> None:
    assert _standing(httpx.Response(400, text=text)) is Standing.UNCLEAR
