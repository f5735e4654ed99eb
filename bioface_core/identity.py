"""Who is who? A hospital by keys that it makes itself and never sends, a lab by the certificate of its authority.

The identity (Ed25519) signs what the hospital says; its public half stands in the study's roster. The node's key (EC
P-384, in OpenSSH's format, as Flower wants it) opens the connection to the lab.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP384R1,
    EllipticCurvePublicKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_ssh_public_key,
)

from bioface_core.errors import UserError
from bioface_core.private import read_secret, write_secret


def make_identity(path: Path) -> Ed25519PrivateKey:
    """A new identity, written to ``path``.

    Raises:
        FileExistsError: something is there.
    """
    key = Ed25519PrivateKey.generate()
    write_identity(path, key)
    return key


def write_identity(path: Path, key: Ed25519PrivateKey) -> None:
    """Writes an identity to ``path``.

    Raises:
        FileExistsError: something is there.
    """
    write_secret(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def make_node_key(path: Path) -> str:
    """A new key for a node, written to ``path``.

    Returns:
        Its public half, one line of OpenSSH text.

    Raises:
        FileExistsError: something is there.
    """
    key = generate_private_key(SECP384R1())
    write_secret(path, key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode("ascii")


def read_identity(path: Path, error: type[UserError]) -> Ed25519PrivateKey:
    """The identity at ``path``.

    Args:
        path: as ``make_identity`` wrote it.
        error: raised for a file that is missing, open to others, or no identity.
    """
    try:
        key = load_pem_private_key(read_secret(path, error), None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as wrong:  # TypeError: it asks for a password
        raise error(f"{path} holds no key that can be read: restore it from a backup") from wrong
    if not isinstance(key, Ed25519PrivateKey):
        raise error(f"{path} holds a key of another kind, expected Ed25519: restore it from a backup")
    return key


def public_hex(key: Ed25519PrivateKey) -> str:
    """The public half, 64 hexadecimal digits, as it stands in a roster."""
    return key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw).hex()


def sign(key: Ed25519PrivateKey, content: dict[str, Any]) -> str:
    """The signature of a JSON object, 128 hexadecimal digits."""
    return key.sign(_canonical(content)).hex()


def is_signed_by(identity_key: str, content: dict[str, Any], signature: str) -> bool:
    """Whether ``signature`` is that of the JSON object under the public half ``identity_key``."""
    try:
        public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(identity_key))
        public.verify(bytes.fromhex(signature), _canonical(content))
    except (ValueError, InvalidSignature):
        return False
    return True


def node_public_bytes(node_key: str) -> bytes:
    """A node's public key as Flower's SuperLink knows it: PEM.

    Args:
        node_key: OpenSSH text.

    Raises:
        ValueError: no EC key on P-384.
    """
    try:
        key = load_ssh_public_key(node_key.encode("ascii"))
    except (UnsupportedAlgorithm, UnicodeEncodeError, NotImplementedError) as wrong:  # the last: a compressed point
        raise ValueError("no OpenSSH public key") from wrong
    if not isinstance(key, EllipticCurvePublicKey) or not isinstance(key.curve, SECP384R1):
        raise ValueError("a key of another kind, expected EC on P-384")
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def certificate_sha256(path: Path, error: type[UserError]) -> str:
    """The fingerprint of a certificate, 64 hexadecimal digits: that of ``openssl x509 -fingerprint -sha256``.

    Args:
        path: a PEM file.
        error: raised for a file that is missing, or no certificate.
    """
    try:
        return x509.load_pem_x509_certificate(path.read_bytes()).fingerprint(SHA256()).hex()
    except OSError as wrong:
        raise error(f"{path} cannot be read ({wrong.strerror}): restore it from a backup") from wrong
    except ValueError as wrong:
        raise error(f"{path} holds no certificate: restore it from where it came") from wrong


def _canonical(content: dict[str, Any]) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode("ascii")
