"""Do keys stay with whoever made them, and does nothing pass for signed that is not?"""

from __future__ import annotations

import stat
from base64 import b64decode, b64encode
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    SECP384R1,
    EllipticCurvePrivateKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
    load_ssh_private_key,
)

from bioface_core.address import host_and_port
from bioface_core.errors import HospitalError
from bioface_core.identity import (
    is_signed_by,
    make_identity,
    make_node_key,
    node_public_bytes,
    public_hex,
    read_identity,
    sign,
)
from bioface_core.private import new_private_folder, read_secret, refuse_occupied, write_secret

POINT = (Encoding.X962, PublicFormat.UncompressedPoint)
CONTENT = {"version": 1, "name": "charite"}


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_an_identity_is_read_back_and_is_its_owner_s_alone(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "identity.key"
    made = make_identity(path)
    assert public_hex(read_identity(path, HospitalError)) == public_hex(made)
    assert (mode(path), mode(path.parent)) == (0o600, 0o700)


def test_no_key_is_written_over(tmp_path: Path) -> None:
    path = tmp_path / "identity.key"
    make_identity(path)
    before = path.read_bytes()
    for make in (make_identity, make_node_key):
        with pytest.raises(FileExistsError):
            make(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("open_to", [0o640, 0o604, 0o620, 0o601])
def test_a_key_that_others_can_touch_is_not_used(tmp_path: Path, open_to: int) -> None:
    path = tmp_path / "identity.key"
    make_identity(path)
    path.chmod(open_to)
    with pytest.raises(HospitalError, match=f"chmod 600 {path}"):
        read_identity(path, HospitalError)
    path.chmod(0o600)
    read_identity(path, HospitalError)


def of_another_kind() -> bytes:
    return generate_private_key(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def with_a_password() -> bytes:
    locked = BestAvailableEncryption(b"secret")
    return Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, locked)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file"),
        (b"", "no key that can be read"),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "no key that can be read"),
        (with_a_password(), "no key that can be read"),
        (of_another_kind(), "another kind, expected Ed25519"),
    ],
    ids=["missing", "empty", "damaged", "password", "kind"],
)
def test_what_is_no_identity_is_named_in_one_line(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "identity.key"
    if content is not None:
        write_secret(path, content)
    with pytest.raises(HospitalError, match=message) as error:
        read_identity(path, HospitalError)
    assert "\n" not in str(error.value) and "backup" in str(error.value)


def test_a_signature_fits_its_content_and_key_alone(tmp_path: Path) -> None:
    key, other = make_identity(tmp_path / "a"), make_identity(tmp_path / "b")
    signature = sign(key, CONTENT)
    assert is_signed_by(public_hex(key), dict(reversed(CONTENT.items())), signature), "the order says nothing"
    assert not is_signed_by(public_hex(key), CONTENT | {"name": "bonn"}, signature)
    assert not is_signed_by(public_hex(key), CONTENT | {"version": True}, signature)
    assert not is_signed_by(public_hex(other), CONTENT, signature)


@pytest.mark.parametrize("signature", ["", "zz", "00", "00" * 64, "00" * 65, "é"])
def test_garbage_is_no_signature(tmp_path: Path, signature: str) -> None:
    assert not is_signed_by(public_hex(make_identity(tmp_path / "a")), CONTENT, signature)


@pytest.mark.parametrize("identity_key", ["", "zz" * 32, "00" * 31, "ff" * 32])
def test_garbage_is_nobody_s_identity(tmp_path: Path, identity_key: str) -> None:
    assert not is_signed_by(identity_key, CONTENT, sign(make_identity(tmp_path / "a"), CONTENT))


def test_a_node_key_is_as_flower_wants_it(tmp_path: Path) -> None:
    """Flower's SuperNode reads the private half as OpenSSH's, its SuperLink knows the public one as PEM."""
    public = make_node_key(tmp_path / "node.key")
    private = load_ssh_private_key((tmp_path / "node.key").read_bytes(), None)
    assert isinstance(private, EllipticCurvePrivateKey) and isinstance(private.curve, SECP384R1)
    assert load_pem_public_key(node_public_bytes(public)) == private.public_key()
    assert public.startswith("ecdsa-sha2-nistp384 ") and "\n" not in public
    assert node_public_bytes(f"{public} somebody@somewhere") == node_public_bytes(public), "a comment is no other key"


def another_curve() -> str:
    return generate_private_key(SECP256R1()).public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def another_kind() -> str:
    return Ed25519PrivateKey.generate().public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def of_a_compressed_point() -> str:
    """What no program writes and a forger may."""
    key = generate_private_key(SECP384R1()).public_key()
    kind, encoded = key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).split()
    content = b64decode(encoded).replace(key.public_bytes(*POINT), b"\x02" + bytes(96))
    return f"{kind.decode()} {b64encode(content).decode()}"


@pytest.mark.parametrize(
    "text",
    ["", "ssh-rsa", "ecdsa-sha2-nistp384 AAAA", "schlüssel", another_curve(), another_kind(), of_a_compressed_point()],
)
def test_what_is_no_node_key_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        node_public_bytes(text)


def test_a_private_key_is_no_public_one(tmp_path: Path) -> None:
    make_node_key(tmp_path / "node.key")
    make_identity(tmp_path / "identity.key")
    assert load_pem_private_key((tmp_path / "identity.key").read_bytes(), None)
    for name in ("node.key", "identity.key"):
        with pytest.raises(ValueError):
            node_public_bytes((tmp_path / name).read_text())


def test_a_secret_is_read_back(tmp_path: Path) -> None:
    write_secret(tmp_path / "keys" / "secret", b"\x00\n")
    assert read_secret(tmp_path / "keys" / "secret", HospitalError) == b"\x00\n"


def test_a_folder_is_made_whole_or_not_at_all(tmp_path: Path) -> None:
    folder = tmp_path / "lab"
    with pytest.raises(RuntimeError), new_private_folder(folder, HospitalError) as fresh:
        (fresh / "half").touch()
        raise RuntimeError("the power is gone")
    assert list(tmp_path.iterdir()) == []
    folder.mkdir()  # an empty one may have been made ready
    with new_private_folder(folder, HospitalError) as fresh:
        (fresh / "whole").touch()
    assert [path.name for path in folder.iterdir()] == ["whole"] and mode(folder) == 0o700
    assert list(tmp_path.iterdir()) == [folder]


def test_nobody_s_folder_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    for taken in (tmp_path / "full", tmp_path / "full" / "file"):
        with pytest.raises(HospitalError, match="is not empty: choose a new folder"):
            refuse_occupied(taken, HospitalError)
    with (
        pytest.raises(HospitalError, match="cannot be made"),
        new_private_folder(tmp_path / "full" / "file" / "below", HospitalError),
    ):
        pass
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(HospitalError, match="the folder you are in"):
        refuse_occupied(Path(), HospitalError)


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("lab.example.org:8443", ("lab.example.org", 8443)),
        ("localhost:1", ("localhost", 1)),
        ("192.0.2.1:65535", ("192.0.2.1", 65535)),
        ("[2001:db8::1]:8443", ("2001:db8::1", 8443)),
    ],
)
def test_an_address_is_a_host_and_a_port(address: str, parts: tuple[str, int]) -> None:
    assert host_and_port(address) == parts


@pytest.mark.parametrize(
    "address",
    ["", "lab", "lab:", ":8443", "lab:0", "lab:65536", "lab:８443", "lab:+1", "https://lab:8443", "2001:db8::1:8443"]
    + ["[lab]:8443", "[::1:8443", "la b:8443", "-lab:8443", "lab..org:8443", f"{'a' * 64}:8443", "lab\n:8443", "läb:1"],
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="expected HOST:PORT, such as"):
        host_and_port(address)
