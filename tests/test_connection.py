"""Is each fault between a hospital and its lab called by its name? Every one is made for real, on loopback."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from client.connection import CHECKS, LabAddress
from client.finding import Finding, examine
from tests.certificates import Authority, make_authority
from tests.test_health import free_port


class FakeLab(BaseHTTPRequestHandler):
    """Answers ``/health``, with a clock that may be wrong."""

    ahead_s = 0.0
    dated = True

    def do_GET(self) -> None:
        self.send_response_only(200 if self.path == "/health" else 404)
        if self.dated:
            self.send_header("Date", formatdate(time.time() + self.ahead_s - 1, usegmt=True))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_CONNECT(self) -> None:
        """As a hospital's proxy: both ends are joined, and this one knows nothing of what passes."""
        host, _, port = self.path.rpartition(":")
        with socket.create_connection((host, int(port))) as beyond:
            self.send_response_only(200)
            self.end_headers()
            back = threading.Thread(target=pour, args=(beyond, self.connection), daemon=True)
            back.start()
            pour(self.connection, beyond)
            back.join(5)
        self.close_connection = True

    def log_message(self, format: str, *arguments: object) -> None:
        pass


def pour(source: socket.socket, target: socket.socket) -> None:
    """Whatever comes, until nothing more does."""
    try:
        while content := source.recv(4096):
            target.sendall(content)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass


@contextmanager
def served(certificate: tuple[Path, Path] | None, handler: type[FakeLab] = FakeLab) -> Iterator[int]:
    """A lab on loopback, with TLS if there is a certificate; its port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign] # a broken handshake is what we came for
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield server.server_port
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(tmp_path_factory.mktemp("authority"))


def findings(authority: Authority, port: int, host: str = "127.0.0.1") -> dict[str, Finding]:
    """What is said of every check, by name."""
    return {one.name: one for one in examine(CHECKS, LabAddress(host, port, authority.path))}


def faults(found: dict[str, Finding]) -> list[str]:
    return [name for name, one in found.items() if one.ok is False]


def test_a_lab_that_is_well(authority: Authority, tmp_path: Path) -> None:
    with served(authority.issue(tmp_path)) as port:
        found = findings(authority, port)
    assert [one.ok for one in found.values()] == [True] * len(CHECKS), found


def test_a_name_that_nobody_knows(authority: Authority) -> None:
    found = findings(authority, 443, "lab.invalid")
    assert faults(found) == ["name"]
    assert "lab.invalid is not known here" in found["name"].found and "DNS" in found["name"].advice
    assert {one.found for name, one in found.items() if name != "name"} == {
        "not checked: name comes first",
        "not checked: port comes first",
        "not checked: tls comes first",
        "not checked: authority comes first",
    }


def test_a_closed_port(authority: Authority) -> None:
    port = free_port()
    found = findings(authority, port)
    assert faults(found) == ["port"]
    assert f"port {port} cannot be reached (Connection refused)" in found["port"].found
    assert "bioface lab serve" in found["port"].advice


def test_a_firewall_that_drops(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full queue drops what comes, as a firewall does."""
    monkeypatch.setattr("client.connection.TIMEOUT_S", 0.3)
    with socket.socket() as full, socket.socket() as first, socket.socket() as second:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for one in (first, second):
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        time.sleep(0.1)
        found = findings(authority, full.getsockname()[1])
    assert faults(found) == ["port"]
    assert "a firewall, most likely" in found["port"].found


def test_plain_http(authority: Authority) -> None:
    with served(None) as port:
        found = findings(authority, port)
    assert faults(found) == ["tls"]
    assert "something else listens there" in found["tls"].advice


def test_a_listener_that_says_nothing(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("client.connection.TIMEOUT_S", 0.3)
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        began = time.monotonic()
        found = findings(authority, mute.getsockname()[1])
    assert faults(found) == ["tls"] and time.monotonic() - began < 3


def test_another_authority_is_named(authority: Authority, tmp_path: Path) -> None:
    """As where a hospital's firewall opens TLS connections and signs them anew."""
    firewall = make_authority(tmp_path / "firewall", "Hospital Firewall CA")
    with served(firewall.issue(tmp_path)) as port:
        found = findings(authority, port)
    assert faults(found) == ["authority"]
    assert "another authority: CN=Hospital Firewall CA" in found["authority"].found
    assert "it inspects TLS" in found["authority"].advice


def test_another_authority_of_the_same_name(authority: Authority, tmp_path: Path) -> None:
    with served(make_authority(tmp_path / "other").issue(tmp_path)) as port:
        assert faults(findings(authority, port)) == ["authority"]


@pytest.mark.parametrize(("host", "certified"), [("127.0.0.1", "lab.example.org"), ("localhost", "127.0.0.1")])
def test_a_certificate_for_another_name(authority: Authority, tmp_path: Path, host: str, certified: str) -> None:
    with served(authority.issue(tmp_path, certified)) as port:
        found = findings(authority, port, host)
    assert faults(found) == ["certified-name"]
    assert found["certified-name"].found == f"the certificate is made out to {certified}, and the start kit says {host}"


def test_an_expired_certificate(authority: Authority, tmp_path: Path) -> None:
    with served(authority.issue(tmp_path, days=-2)) as port:
        found = findings(authority, port)
    assert faults(found) == ["expiry"]
    assert found["expiry"].found.startswith("the server's certificate expired on ")
    assert "bioface lab renew" in found["expiry"].advice


def test_a_certificate_that_is_not_valid_yet(authority: Authority, tmp_path: Path) -> None:
    """Which often means that this machine's clock is wrong."""
    with served(authority.issue(tmp_path, days=30, from_days=2)) as port:
        found = findings(authority, port)
    assert faults(found) == ["expiry"]
    assert "NTP" in found["expiry"].advice


def test_a_certificate_that_expires_soon_is_worth_knowing(authority: Authority, tmp_path: Path) -> None:
    with served(authority.issue(tmp_path, days=20)) as port:
        found = findings(authority, port)
    assert faults(found) == [] and found["expiry"].ok is None
    assert "valid for 19 more days" in found["expiry"].found


@pytest.mark.parametrize(
    ("ahead_s", "ok", "said"),
    [
        (0, True, "agree"),
        (3.5, None, "s behind the lab's"),
        (-3.5, None, "s ahead of the lab's"),
        (-3600, False, "about 60 min ahead of the lab's"),
        (7 * 3600, False, "about 7.0 h behind the lab's"),
    ],
)
def test_a_clock_that_is_wrong(
    authority: Authority, tmp_path: Path, ahead_s: float, ok: bool | None, said: str
) -> None:
    handler = type("Lab", (FakeLab,), {"ahead_s": ahead_s})
    with served(authority.issue(tmp_path), handler) as port:
        found = findings(authority, port)
    assert found["clock"].ok is ok, found["clock"]
    assert said in found["clock"].found and ("NTP" in found["clock"].advice) is (ok is not True)
    assert faults(found) == (["clock"] if ok is False else [])


def test_an_answer_without_a_date(authority: Authority, tmp_path: Path) -> None:
    with served(authority.issue(tmp_path), type("Lab", (FakeLab,), {"dated": False})) as port:
        assert findings(authority, port)["clock"].ok is None


def test_the_way_through_a_proxy(authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with served(authority.issue(tmp_path)) as port, served(None) as proxy:
        monkeypatch.setenv("https_proxy", f"http://user:word@127.0.0.1:{proxy}")
        found = findings(authority, port)
        assert faults(found) == [], found
        assert f"port {proxy} answers, the proxy on the way to 127.0.0.1:{port}" in found["port"].found
        assert not any("word" in one.found for one in found.values())
    with served(authority.issue(tmp_path)) as port:
        assert faults(findings(authority, port)) == ["port"]
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        assert faults(findings(authority, port)) == []


def test_a_broken_kit_is_a_finding_and_no_traceback(authority: Authority, tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_text("nothing")
    with served(authority.issue(tmp_path)) as port:
        found = {one.name: one for one in examine(CHECKS, LabAddress("127.0.0.1", port, tmp_path / "ca.crt"))}
    assert faults(found) == ["authority"]
    assert "cannot be read as a certificate" in found["authority"].found
