"""Who is not let in? A real SuperLink behind its guards, a real SuperNode, and everybody who has no business there."""

from __future__ import annotations

import hashlib
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Context, Message
from flwr.proto.fleet_pb2 import PullMessagesRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from bioface_core.messages import Code, Phase, Request, Ticket
from bioface_core.supervise import Child, command, stop_all
from bioface_core.wire import pack_request
from client.executor import TaskLoop
from client.hospital import Hospital
from server.grid import Admin, server_task
from server.lab import Lab
from server.link import ADMIN_HEADER
from simulation.deploy.payload import PayloadLearner
from simulation.deploy.timings import join_quickly, make_quick_lab, make_store
from simulation.rehearse.stage import child_environment
from tests.certificates import make_authority

pytestmark = pytest.mark.slow


@dataclass
class Open:
    """A lab whose SuperLink runs, and a hospital that is approved and registered."""

    lab: Lab
    hospital: Hospital
    admin: Admin

    @property
    def public(self) -> str:
        return f"https://{self.lab.settings.address}"

    def trusting(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.lab.authority))

    def asked(self, path: str, method: str = "POST", **others: Any) -> int:
        """The status of a request on the public port."""
        with httpx.Client(verify=self.trusting(), timeout=10) as client:
            return client.request(method, self.public + path, **others).status_code

    def refusals(self) -> list[dict[str, Any]]:
        lines = (self.lab.logs / "superlink.jsonl").read_text().splitlines()
        return [entry for entry in map(json.loads, lines) if entry["event"] == "refused"]

    @contextmanager
    def noting_a_failed_handshake(self) -> Iterator[None]:
        """The block must leave one more of them in the lab's log."""
        before = len(self.refusals())
        yield
        until(lambda: any(entry["why"].startswith("no TLS with us") for entry in self.refusals()[before:]))


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Open]:
    folder = tmp_path_factory.mktemp("refused")
    lab = make_quick_lab(folder / "lab", rounds=1)
    hospital = join_quickly([folder / "hospital-1"], lab, make_store(folder / "store"))[0]
    link = Child("superlink", command("link", str(lab.folder)), child_environment(), lab.logs / "superlink.out")
    link.start()
    admin = Admin(lab.admin)
    try:
        until(lambda: answers(admin))
        admin.register(lab.roster()[0].node_public_bytes, "hospital-1")
        yield Open(lab, hospital, admin)
    finally:
        admin.close()
        stop_all([link])


def until(holds: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.05)


def answers(admin: Admin) -> bool:
    try:
        return admin.nodes() is not None
    except httpx.HTTPError:
        return False


def test_plain_http_gets_no_word(opened: Open) -> None:
    with opened.noting_a_failed_handshake(), pytest.raises(httpx.TransportError):
        httpx.get(f"http://{opened.lab.settings.address}/health", timeout=5)


def test_whoever_trusts_another_authority_does_not_talk_to_this_lab(opened: Open, tmp_path: Path) -> None:
    other = ssl.create_default_context(cafile=str(make_authority(tmp_path).path))
    with opened.noting_a_failed_handshake(), pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        httpx.get(opened.public + "/health", verify=other)


@pytest.mark.parametrize(
    "path",
    [
        "/v1/control/start-run",
        "/v1/control/register-node",
        "/v1/control/list-nodes",
        "/v1/fleet/register-node",
        "/v1/fleet/unregister-node",
        "/v1/runtime/acquire-task",
        "/v1/runtime/pull-messages",
        "/v1/runtime/push-task-output",
        "/docs",
        "/openapi.json",
        "//v1/control/start-run",
        "/V1/control/start-run",
        "/v1/fleet/../control/start-run",
        "/v1/fleet/pull-messages/",
        "/v1/fleet/pull-messages/../../control/start-run",
    ],
)
@pytest.mark.parametrize("method", ["POST", "GET", "PUT", "HEAD"])
def test_the_public_port_answers_nodes_alone(opened: Open, path: str, method: str) -> None:
    before = len(opened.refusals())
    assert opened.asked(path, method, content=b"") == 404
    assert len(opened.refusals()) == before + 1


def test_a_body_beyond_the_limit_is_not_read(opened: Open) -> None:
    assert opened.asked("/v1/fleet/push-object", content=b"x" * (17 * 2**20)) == 413
    assert opened.asked("/v1/fleet/push-object", content=iter([b"x"])) == 413, "without a length"


@pytest.mark.parametrize("headers", [{}, {ADMIN_HEADER: ""}, {ADMIN_HEADER: "0" * 64}])
@pytest.mark.parametrize("path", ["/v1/control/start-run", "/v1/control/register-node", "/v1/runtime/acquire-task"])
def test_the_administration_asks_for_the_lab_s_secret(opened: Open, path: str, headers: dict[str, str]) -> None:
    before = len(opened.refusals())
    with httpx.Client(verify=opened.trusting(), timeout=10) as client:
        url = f"https://{opened.lab.admin.address}{path}"
        assert client.post(url, headers=headers).status_code == 401
    assert len(opened.refusals()) == before + 1


def node_client(opened: Open, key: ec.EllipticCurvePrivateKey) -> FleetHttpClient:
    signed = NodeAuthHttpInterceptor(key, key.public_key())
    return FleetHttpClient(opened.public, interceptors=[signed], verify=opened.trusting())


def pulled(opened: Open, key: ec.EllipticCurvePrivateKey, node_id: int) -> int:
    """The status of a node's request for messages."""
    with node_client(opened, key) as client:
        try:
            client.PullMessages(PullMessagesRequest(node=Node(node_id=node_id)))
        except httpx.HTTPStatusError as error:
            return error.response.status_code
    return 200


def test_a_key_works_from_its_registration_until_it_is_revoked(opened: Open) -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    public = public_key_to_bytes(key.public_key())
    assert pulled(opened, key, 1) == 401
    opened.admin.register(public, "another")
    node_id = opened.admin.nodes()[public].node_id
    assert pulled(opened, key, node_id) == 200
    assert pulled(opened, ec.generate_private_key(ec.SECP384R1()), node_id) == 401, "another's number"
    before = len(opened.refusals())
    opened.admin.unregister(node_id)
    assert pulled(opened, key, node_id) == 401, "at the next message"
    assert len(opened.refusals()) == before + 1


PLANTED = """from pathlib import Path
Path({marker!r}).write_text("the lab's code ran at the hospital")
app = None
"""


def planted_bundle(marker: Path) -> bytes:
    """A bundle of another hash, whose every file would leave a mark if it were imported."""
    from flwr.cli.build import build_fab_from_files

    code = PLANTED.format(marker=str(marker)).encode()
    project = (
        b'[project]\nname = "bioface-federated"\nversion = "0.1.0"\nlicense = { text = "x" }\n'
        b'[tool.flwr.app]\npublisher = "bioface"\n[tool.flwr.app.components]\n'
        b'serverapp = "server.bundled:app"\nclientapp = "client.bundled:app"\n'
    )
    names = ("client/__init__.py", "client/bundled.py", "client/site.py", "server/__init__.py", "server/bundled.py")
    return build_fab_from_files({"pyproject.toml": project, **dict.fromkeys(names, code)})[0]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_another_bundle_is_refused_and_never_run(opened: Open, tmp_path: Path) -> None:
    """Through the real SuperLink and SuperNode to the loop that takes tasks."""
    marker, seen = tmp_path / "marker", list[str]()
    bundle = planted_bundle(marker)

    def answer(message: Message, context: Context) -> Message:
        seen.append(message.metadata.message_type)
        raise AssertionError("the site was asked")

    hospital, stop = opened.hospital, threading.Event()
    before = {path: path.read_bytes() for path in hospital.state.rglob("*") if path.is_file()}
    approved = hospital.approved().bundle_sha256
    refused = list[Code]()
    loop = TaskLoop(hospital.settings.ports.runtime, hospital.secret, approved, answer, refused.append)
    node = Child("node", command("node", str(hospital.folder)), child_environment(), hospital.logs / "node.out")
    thread = threading.Thread(target=loop.run, args=(stop,))
    node.start()
    thread.start()
    try:
        with server_task(opened.lab.admin, bundle, hashlib.sha256(bundle).hexdigest()) as (grid, _):
            until(lambda: len(grid.get_node_ids()) == 1)
            message = Message(content(hospital), grid.get_node_ids()[0], "train", ttl=60.0)
            ids = list(grid.push_messages([message]))
            replies: list[Message] = []

            def has_come() -> bool:
                replies.extend(grid.pull_messages(ids))
                return bool(replies)

            until(has_come)
    finally:
        stop.set()
        thread.join(20)
        stop_all([node])
    assert replies[0].has_error() and replies[0].error.reason == Code.BUNDLE
    assert refused == [Code.BUNDLE] and seen == []
    assert not marker.exists(), "the lab's code ran at the hospital"
    flower = hospital.state / "flower"
    assert not list(flower.rglob("*.py")) if flower.exists() else True, "the bundle was unpacked"
    assert {path: path.read_bytes() for path in before} == before


def content(hospital: Hospital) -> Any:
    study = hospital.approved().study
    learner = PayloadLearner(100, len(study.syndromes), study.model.embedding)
    ticket = Ticket(study.study_id, "run", 1, 1, Phase.TRAIN)
    return pack_request(Request(ticket, learner.schema, learner.start()))
