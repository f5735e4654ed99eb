"""Does a hospital reach the lab it means, and no other? Real handshakes on loopback, read as strictly as can be."""

from __future__ import annotations

import errno
import socket
import ssl
import stat
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from bioface_core.errors import LabError
from bioface_core.identity import certificate_sha256
from bioface_core.private import write_secret
from server.certificates import AUTHORITY_DAYS, SERVER_DAYS, expires_in, make_authority, make_server_certificate

HOST, TIMEOUT_S = "lab.example.org", 20


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    return made(tmp_path / "keys")


def made(folder: Path, host: str = HOST) -> Path:
    make_authority(folder)
    make_server_certificate(folder, host)
    return folder


@contextmanager
def listening(keys: Path) -> Iterator[int]:
    """A server that shakes one hand; its port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(keys / "server.crt", keys / "server.key")
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(TIMEOUT_S)
        thread = threading.Thread(target=shake, args=(server, context))
        thread.start()
        yield server.getsockname()[1]
        thread.join(TIMEOUT_S)


def shake(server: socket.socket, context: ssl.SSLContext) -> None:
    connection, _ = server.accept()
    connection.settimeout(TIMEOUT_S)
    try:
        with context.wrap_socket(connection, server_side=True) as shaken:
            shaken.recv(1)
    except (ssl.SSLError, ConnectionError):
        connection.close()  # the other side does not want us: that is its test


def shakes_hands(server: Path, name: str, authority: Path) -> None:
    """Connects to who calls itself ``name``, believing ``authority`` alone.

    Raises:
        ssl.SSLCertVerificationError: it is somebody else.
    """
    strict = ssl.create_default_context(cafile=str(authority))
    strict.verify_flags |= ssl.VERIFY_X509_STRICT
    with listening(server) as port, socket.create_connection(("127.0.0.1", port), TIMEOUT_S) as connection:
        strict.wrap_socket(connection, server_hostname=name).close()


@pytest.mark.parametrize("name", [HOST, "localhost", "127.0.0.1"])
def test_the_lab_is_known_by_its_names(keys: Path, name: str) -> None:
    shakes_hands(keys, name, keys / "ca.crt")


@pytest.mark.parametrize("host", ["192.0.2.7", "2001:db8::7", "::1", "localhost", "127.0.0.1", "long." * 20 + "org"])
def test_the_lab_is_known_by_its_address(tmp_path: Path, host: str) -> None:
    shakes_hands(made(tmp_path / "keys", host), host, tmp_path / "keys" / "ca.crt")


@pytest.mark.parametrize("name", ["lab.example.com", "example.org", "192.0.2.7"])
def test_another_name_is_refused(keys: Path, name: str) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        shakes_hands(keys, name, keys / "ca.crt")


def test_another_authority_is_refused_though_it_bears_the_same_name(keys: Path, tmp_path: Path) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        shakes_hands(made(tmp_path / "other"), HOST, keys / "ca.crt")


def test_a_server_is_no_authority(keys: Path, tmp_path: Path) -> None:
    """Whoever steals the server's key cannot make certificates with it."""
    forged = tmp_path / "forged"
    forged.mkdir()
    for old, new in (("server.crt", "ca.crt"), ("server.key", "ca.key")):
        write_secret(forged / new, (keys / old).read_bytes())
    make_server_certificate(forged, HOST)
    chain = (forged / "server.crt").read_bytes() + (keys / "server.crt").read_bytes()
    (forged / "server.crt").write_bytes(chain)
    with pytest.raises(ssl.SSLCertVerificationError):
        shakes_hands(forged, HOST, keys / "ca.crt")


def test_a_renewed_certificate_is_believed_as_the_old_one_was(keys: Path) -> None:
    before = {path.name: path.read_bytes() for path in keys.iterdir()}
    make_server_certificate(keys, HOST)
    unchanged = {name for name, content in before.items() if (keys / name).read_bytes() == content}
    assert unchanged == {"ca.key", "ca.crt"}, "the key is new, too"
    shakes_hands(keys, HOST, keys / "ca.crt")


def test_a_full_disk_leaves_the_old_pair_whole(keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched, pytest.raises(OSError):
        patched.setattr("server.certificates.write_bytes", full)
        make_server_certificate(keys, HOST)
    shakes_hands(keys, HOST, keys / "ca.crt")
    make_server_certificate(keys, HOST)
    shakes_hands(keys, HOST, keys / "ca.crt")


def test_a_renewal_that_was_cut_off_is_made_good_by_the_next(keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def power_cut(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Path, "replace", power_cut)
        make_server_certificate(keys, HOST)
    make_server_certificate(keys, HOST)
    shakes_hands(keys, HOST, keys / "ca.crt")
    assert {path.name for path in keys.iterdir()} == {"ca.key", "ca.crt", "server.key", "server.crt"}


def test_keys_are_for_their_owner_alone(keys: Path) -> None:
    make_server_certificate(keys, HOST)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in keys.glob("*.key")}
    assert modes == {"ca.key": 0o600, "server.key": 0o600}
    assert stat.S_IMODE(keys.stat().st_mode) == 0o700
    assert {path.name for path in keys.iterdir()} == {"ca.key", "ca.crt", "server.key", "server.crt"}


def test_they_last_as_long_as_they_should(keys: Path) -> None:
    for name, days in (("ca.crt", AUTHORITY_DAYS), ("server.crt", SERVER_DAYS)):
        assert timedelta(days=days - 1) < expires_in(keys / name) <= timedelta(days=days)


def test_no_certificate_outlives_its_authority(keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.certificates.SERVER_DAYS", AUTHORITY_DAYS + 100)
    make_server_certificate(keys, HOST)
    ends = [
        x509.load_pem_x509_certificate((keys / name).read_bytes()).not_valid_after_utc
        for name in ("ca.crt", "server.crt")
    ]
    assert ends[0] == ends[1] > datetime.now(UTC)


def test_the_fingerprint_is_openssl_s(keys: Path) -> None:
    """A hospital may compare it without our software."""
    command = ["openssl", "x509", "-in", str(keys / "ca.crt"), "-noout", "-fingerprint", "-sha256"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=TIMEOUT_S).stdout
    except FileNotFoundError:
        pytest.skip("openssl is not installed")
    assert said.partition("=")[2].strip().replace(":", "").lower() == certificate_sha256(keys / "ca.crt", LabError)


def open_to_others(keys: Path) -> None:
    (keys / "ca.key").chmod(0o640)


def damaged_key(keys: Path) -> None:
    (keys / "ca.key").write_text("-----BEGIN PRIVATE KEY-----")


def missing_key(keys: Path) -> None:
    (keys / "ca.key").unlink()


def damaged_certificate(keys: Path) -> None:
    (keys / "ca.crt").write_text("-----BEGIN CERTIFICATE-----")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (open_to_others, "chmod 600"),
        (damaged_key, "ca.key holds no key that can be read: restore it"),
        (missing_key, "ca.key cannot be read"),
        (damaged_certificate, "ca.crt cannot be read as a certificate: restore it"),
    ],
)
def test_an_authority_that_cannot_be_used_is_named_and_the_old_certificate_stays(
    keys: Path, damage: object, message: str
) -> None:
    before = [(keys / name).read_bytes() for name in ("server.key", "server.crt")]
    assert callable(damage)
    damage(keys)
    with pytest.raises(LabError, match=message) as error:
        make_server_certificate(keys, HOST)
    assert "\n" not in str(error.value)
    assert [(keys / name).read_bytes() for name in ("server.key", "server.crt")] == before


def test_a_certificate_that_is_none_has_no_end(tmp_path: Path) -> None:
    (tmp_path / "a.crt").write_bytes(b"")
    for path in (tmp_path / "a.crt", tmp_path / "b.crt"):
        with pytest.raises(LabError, match="cannot be read as a certificate"):
            expires_in(path)
