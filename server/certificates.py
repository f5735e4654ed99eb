"""How does a hospital know the lab? By a certificate that the lab's own authority signed, and no other authority.

The authority lasts ten years, its key is needed to renew the server's certificate only. Names and addresses at which
hospitals reach the lab stand in the server's certificate. Source: RFC 5280, as strict readers check it.
"""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from bioface_core.errors import LabError
from bioface_core.files import write_bytes
from bioface_core.identity import read_secret, write_secret

AUTHORITY_DAYS, SERVER_DAYS = 3650, 397  # what browsers accept of a server, and most scanners ask for
_AHEAD = timedelta(minutes=5)  # a hospital's clock may be a little behind
_AUTHORITY, _SERVER = "ca", "server"


def make_authority(keys: Path) -> None:
    """Writes ``ca.key`` and ``ca.crt`` into a folder."""
    key = generate_private_key(SECP256R1())
    name = _name("BioFace Federated lab authority")
    usage = _usage(signs_certificates=True)
    builder = _builder(name, name, key, key, AUTHORITY_DAYS)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    _write(keys, _AUTHORITY, key, builder.add_extension(usage, critical=True).sign(key, SHA256()))


def make_server_certificate(keys: Path, host: str) -> None:
    """Writes ``server.key`` and ``server.crt``, or new ones in their place.

    Args:
        keys: the folder of the authority.
        host: name or address at which hospitals reach the lab; this machine itself reaches it as localhost.
    """
    authority = x509.load_pem_x509_certificate((keys / f"{_AUTHORITY}.crt").read_bytes())
    authority_key = load_pem_private_key(read_secret(keys / f"{_AUTHORITY}.key", LabError), None)
    assert isinstance(authority_key, EllipticCurvePrivateKey)
    key = generate_private_key(SECP256R1())
    names = x509.SubjectAlternativeName([_san(one) for one in dict.fromkeys((host, "localhost", "127.0.0.1"))])
    builder = _builder(_name(host[:64]), authority.subject, key, authority_key, SERVER_DAYS)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(names, critical=False)
    builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    signed = builder.add_extension(_usage(signs_certificates=False), critical=True).sign(authority_key, SHA256())
    (keys / f"{_SERVER}.key").unlink(missing_ok=True)
    _write(keys, _SERVER, key, signed)


def expires_in(certificate: Path) -> timedelta:
    """How long a certificate is still valid; negative once it is not."""
    read = x509.load_pem_x509_certificate(certificate.read_bytes())
    return read.not_valid_after_utc - datetime.now(UTC)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: EllipticCurvePrivateKey,
    issuer_key: EllipticCurvePrivateKey,
    days: int,
) -> x509.CertificateBuilder:
    """What every certificate has: who, until when, and the two identifiers that strict readers ask for."""
    now = datetime.now(UTC)
    issued_by = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _AHEAD)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(issued_by, critical=False)
    )


def _usage(signs_certificates: bool) -> x509.KeyUsage:
    """An authority signs certificates, a server signs its handshakes."""
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _san(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _write(keys: Path, name: str, key: EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
    write_secret(keys / f"{name}.key", key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    write_bytes(keys / f"{name}.crt", certificate.public_bytes(Encoding.PEM))
