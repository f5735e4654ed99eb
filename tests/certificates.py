"""What certificates does a test need? An authority of its own, and servers that are right or wrong in one respect."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID


@dataclass(frozen=True)
class Authority:
    """A CA, its certificate in a file."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate
    path: Path

    def issue(
        self, folder: Path, name: str = "127.0.0.1", days: float = 365, from_days: float = -1
    ) -> tuple[Path, Path]:
        """A server's certificate and key, made out to ``name`` and valid for ``days`` from now."""
        key = ec.generate_private_key(ec.SECP256R1())
        try:
            general: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(name))
        except ValueError:
            general = x509.DNSName(name)
        names = x509.SubjectAlternativeName([general])
        builder = _builder("server", self.certificate.subject, key, from_days, days).add_extension(
            names, critical=False
        )
        certificate = builder.add_extension(_authority_key(self.key), critical=False).sign(self.key, hashes.SHA256())
        paths = folder / "server.crt", folder / "server.key"
        paths[0].write_bytes(certificate.public_bytes(Encoding.PEM))
        paths[1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return paths


def make_authority(folder: Path, name: str = "the lab's authority") -> Authority:
    """A CA for ten years, its certificate in ``folder/ca.crt``."""
    folder.mkdir(parents=True, exist_ok=True)
    key, subject = ec.generate_private_key(ec.SECP256R1()), _name(name)
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    builder = _builder(name, subject, key, -10, 3650).add_extension(x509.BasicConstraints(True, 0), critical=True)
    certificate = builder.add_extension(usage, critical=True).sign(key, hashes.SHA256())
    path = folder / "ca.crt"
    path.write_bytes(certificate.public_bytes(Encoding.PEM))
    return Authority(key, certificate, path)


def _builder(
    name: str, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, from_days: float, days: float
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + timedelta(days=min(from_days, days - 1)))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _authority_key(key: ec.EllipticCurvePrivateKey) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())


def _name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
