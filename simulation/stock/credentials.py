"""With what do Flower's nodes and server know each other? A CA, a server certificate, and one key per node.

What Flower's guides "Enable TLS connections" and "Authenticate SuperNodes" make with OpenSSL, made in Python: keys of
elliptic curves, the server's name as a subject alternative name, node keys on P-384 in the format of OpenSSH.
"""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import NameOID

_LIFE = timedelta(days=1)


def make_certificates(folder: Path) -> None:
    """Writes ``ca.crt``, ``server.crt`` and ``server.key`` for 127.0.0.1; the CA's own key is forgotten.

    Args:
        folder: exists.
    """
    authority_key, server_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    loopback = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    authority = _certificate("stock CA", authority_key.public_key(), x509.BasicConstraints(True, 0), True)
    server = _certificate("stock SuperLink", server_key.public_key(), loopback, False)
    for name, one in (("ca.crt", authority), ("server.crt", server)):
        signed = one.sign(authority_key, hashes.SHA256())
        (folder / name).write_bytes(signed.public_bytes(Encoding.PEM))
    (folder / "server.key").write_bytes(
        server_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    )


def make_node_key(path: Path) -> None:
    """Writes a node's private key to ``path`` and its public key beside it, ending in ``.pub``."""
    key = ec.generate_private_key(ec.SECP384R1())
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    path.with_suffix(".pub").write_bytes(key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH))


def _certificate(
    subject: str, key: ec.EllipticCurvePublicKey, extension: x509.ExtensionType, critical: bool
) -> x509.CertificateBuilder:
    """To be signed by the CA."""
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(_name(subject)).issuer_name(_name("stock CA")).public_key(key)
    builder = builder.serial_number(x509.random_serial_number()).add_extension(extension, critical)
    return builder.not_valid_before(now - _LIFE).not_valid_after(now + _LIFE)


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])
