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
from bioface_core.private import read_secret, write_secret

AUTHORITY_DAYS, SERVER_DAYS = 3650, 397  # what browsers accept of a server, and most scanners ask for
_AHEAD = timedelta(minutes=5)  # a hospital's clock may be a little behind
_AUTHORITY, _SERVER = "ca", "server"


def make_authority(keys: Path) -> None:
    """Writes ``ca.key`` and ``ca.crt`` into a folder."""
    key = generate_private_key(SECP256R1())
    name = _name("BioFace Federated lab authority")
    usage = _usage(signs_certificates=True)
    builder = _builder(name, name, key, key, datetime.now(UTC) + timedelta(days=AUTHORITY_DAYS))
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    _write(keys, _AUTHORITY, key, builder.add_extension(usage, critical=True).sign(key, SHA256()))


def make_server_certificate(keys: Path, host: str) -> None:
    """Writes ``server.key`` and ``server.crt``, or new ones in their place.

    Args:
        keys: the folder of the authority.
        host: name or address at which hospitals reach the lab; this machine itself reaches it as localhost.

    Raises:
        LabError: the authority's key or certificate cannot be used.
    """
    authority, authority_key = _read(keys / f"{_AUTHORITY}.crt"), _read_key(keys / f"{_AUTHORITY}.key")
    key = generate_private_key(SECP256R1())
    names = x509.SubjectAlternativeName([_san(one) for one in dict.fromkeys((host, "localhost", "127.0.0.1"))])
    ends = min(datetime.now(UTC) + timedelta(days=SERVER_DAYS), authority.not_valid_after_utc)
    builder = _builder(_name(host[:64]), authority.subject, key, authority_key, ends)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(names, critical=False)
    builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    signed = builder.add_extension(_usage(signs_certificates=False), critical=True).sign(authority_key, SHA256())
    _write(keys, _SERVER, key, signed)


def expires_in(certificate: Path) -> timedelta:
    """How long a certificate is still valid; negative once it is not.

    Raises:
        LabError: it cannot be read.
    """
    return _read(certificate).not_valid_after_utc - datetime.now(UTC)


def _read(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        raise LabError(f"{path} cannot be read as a certificate: restore it from a backup") from error


def _read_key(path: Path) -> EllipticCurvePrivateKey:
    try:
        key = load_pem_private_key(read_secret(path, LabError), None)
    except (ValueError, TypeError) as error:
        raise LabError(f"{path} holds no key that can be read: restore it from a backup") from error
    assert isinstance(key, EllipticCurvePrivateKey), "the authority's key is of our making"
    return key


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: EllipticCurvePrivateKey,
    issuer_key: EllipticCurvePrivateKey,
    ends: datetime,
) -> x509.CertificateBuilder:
    """What every certificate has: who, until when, and the two identifiers that strict readers ask for."""
    issued_by = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - _AHEAD)
        .not_valid_after(ends)
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
    """Writes both, the key under another name first: a full disk leaves the old pair whole."""
    path, fresh = keys / f"{name}.key", keys / f".{name}.key.part"
    fresh.unlink(missing_ok=True)
    write_secret(fresh, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    write_bytes(keys / f"{name}.crt", certificate.public_bytes(Encoding.PEM))
    fresh.replace(path)
