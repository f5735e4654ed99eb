"""Can the lab be reached, and is it the lab? Name, port, TLS, certificate and clock, in the order in which they fail.

Nothing is sent but a TLS handshake and ``GET /health``. Every wait is bounded. Where the hospital's network leads
through a proxy (``HTTPS_PROXY``), as the SuperNode does, so do the checks.
"""

from __future__ import annotations

import base64
import http.client
import queue
import socket
import ssl
import threading
import time
import urllib.request
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from cryptography import x509

from client.finding import Check, Verdict, fault, fine, notable

TIMEOUT_S = 3.0

_EXPIRES_SOON = timedelta(days=30)
_SKEW_NOTABLE_S, _SKEW_FATAL_S = 2.0, 5.0  # Flower refuses a node that is more than 5 s ahead
_NTP = "run NTP (`timedatectl set-ntp true`) here, and ask the lab to do so: a clock that is 5 s ahead is refused"
_DATE_LAG_S = 1.0  # the Date header is cut to a second and made once a second: on average so much too early
_OTHER_NAME = (62, 64)  # X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH
_OUT_OF_TIME = (9, 10)  # X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED


@dataclass(frozen=True)
class LabAddress:
    """Where the lab should be, and how to recognise it.

    Attributes:
        host: name or IP address.
        port: TCP.
        authority: certificate of its CA, PEM.
    """

    host: str
    port: int
    authority: Path

    @property
    def proxy(self) -> SplitResult | None:
        """The proxy that leads there, None if the way is direct."""
        found = urllib.request.getproxies()
        url = found.get("https") or found.get("all")
        return None if not url or urllib.request.proxy_bypass(self.host) else urlsplit(url)

    @property
    def first_hop(self) -> tuple[str, int]:
        """Whom this machine connects to: the lab, or the proxy."""
        proxy = self.proxy
        return (self.host, self.port) if proxy is None else (proxy.hostname or "", proxy.port or 80)

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def trusting(authority: Path) -> ssl.SSLContext:
    """Trusts the lab's CA and nobody else.

    Raises:
        OSError: the file cannot be read as a certificate.
    """
    return ssl.create_default_context(cafile=str(authority))


def check_name(lab: LabAddress) -> Verdict:
    """Is the host name known here?"""
    host, port = lab.first_hop
    answer: queue.Queue[str | OSError] = queue.Queue()
    threading.Thread(target=_resolve, args=(host, port, answer), daemon=True).start()
    try:
        found = answer.get(timeout=TIMEOUT_S)
    except queue.Empty:
        return fault(f"no name server answers for {host} within {TIMEOUT_S:.0f} s", "ask your network team about DNS")
    if isinstance(found, OSError):
        advice = "check the address with the lab; if it is right, ask your network team about DNS"
        return fault(f"the name {host} is not known here ({found.strerror})", advice)
    return fine(f"{host} resolves to {found}{_by_proxy(lab)}")


def check_port(lab: LabAddress) -> Verdict:
    """Does anybody listen there?"""
    host, port = lab.first_hop
    try:
        socket.create_connection((host, port), TIMEOUT_S).close()
    except TimeoutError:
        advice = f"ask your network team to let outgoing TCP connections to {lab} through"
        return fault(f"{host} port {port} does not answer within {TIMEOUT_S:.0f} s: a firewall, most likely", advice)
    except OSError as error:
        advice = "ask the lab whether `bioface lab serve` runs and its firewall lets the port in"
        return fault(f"{host} port {port} cannot be reached ({error.strerror})", advice)
    return fine(f"{host} port {port} answers{_by_proxy(lab)}")


def check_tls(lab: LabAddress) -> Verdict:
    """Does it speak TLS?"""
    try:
        _certificate(lab)
    except (OSError, http.client.HTTPException) as error:
        advice = "something else listens there, or a proxy interferes: compare the address with the lab"
        return fault(f"no TLS connection to {lab}{_by_proxy(lab)} ({_reason(error)})", advice)
    return fine(f"{lab} speaks TLS")


def check_authority(lab: LabAddress) -> Verdict:
    """Is its certificate issued by the lab's CA, whose certificate came with the start kit?"""
    try:
        context = trusting(lab.authority)
    except OSError as error:
        advice = "`bioface hospital approve` the start kit again"
        return fault(f"{lab.authority} cannot be read as a certificate ({_reason(error)})", advice)
    context.check_hostname = False
    refused = _refusal(lab, context)
    if refused is None or refused.verify_code in _OUT_OF_TIME:
        return fine("the certificate is issued by the lab's authority")
    issuer = _certificate(lab).issuer.rfc4514_string()
    advice = (
        "if that is your own network's name, it inspects TLS: ask for an exception for the lab's address. "
        "If it is the lab's, ask the lab for a new start kit. Otherwise it is not the lab"
    )
    return fault(f"the certificate is issued by another authority: {issuer}", advice)


def check_certified_name(lab: LabAddress) -> Verdict:
    """Is the certificate made out to the host name that we use?"""
    refused = _refusal(lab, trusting(lab.authority))
    if refused is None or refused.verify_code not in _OTHER_NAME:
        return fine(f"the certificate is made out to {lab.host}")
    names = ", ".join(_names(_certificate(lab))) or "no name"
    advice = "ask the lab which address is right; it may have to make its server certificate anew"
    return fault(f"the certificate is made out to {names}, and the start kit says {lab.host}", advice)


def check_expiry(lab: LabAddress) -> Verdict:
    """Are the certificates valid now, and for how long?"""
    server = _certificate(lab)
    authority = x509.load_pem_x509_certificate(lab.authority.read_bytes())
    now, begins = datetime.now(UTC), max(server.not_valid_before_utc, authority.not_valid_before_utc)
    if now < begins:
        found = f"the certificate is valid from {begins:%Y-%m-%d %H:%M} UTC on; here it is {now:%Y-%m-%d %H:%M}"
        return fault(found, _NTP)
    ends = min(server.not_valid_after_utc, authority.not_valid_after_utc)
    whose = "server's" if ends == server.not_valid_after_utc else "authority's"
    advice = "ask the lab to `bioface lab renew`" if whose == "server's" else "ask the lab for a new start kit"
    if ends < now:
        return fault(f"the {whose} certificate expired on {ends:%Y-%m-%d}; here it is {now:%Y-%m-%d}", advice)
    found = f"the {whose} certificate is valid for {(ends - now).days} more days, until {ends:%Y-%m-%d}"
    return notable(found, advice) if ends - now < _EXPIRES_SOON else fine(found)


def check_clock(lab: LabAddress) -> Verdict:
    """Does this machine's clock agree with the lab's?"""
    ahead_s = _clock_ahead(lab)
    if ahead_s is None:
        return notable("the lab's answer holds no time to compare with")
    if abs(ahead_s) < _SKEW_NOTABLE_S:
        return fine("this clock and the lab's agree to within 2 s")
    found = f"this clock is about {_duration(abs(ahead_s))} {'ahead of' if ahead_s > 0 else 'behind'} the lab's"
    return notable(found, _NTP) if abs(ahead_s) < _SKEW_FATAL_S else fault(found, _NTP)


CHECKS: tuple[Check[LabAddress], ...] = (
    Check("name", check_name),
    Check("port", check_port, ("name",)),
    Check("tls", check_tls, ("port",)),
    Check("authority", check_authority, ("tls",)),
    Check("certified-name", check_certified_name, ("authority",)),
    Check("expiry", check_expiry, ("authority",)),
    Check("clock", check_clock, ("authority",)),
)


def _resolve(host: str, port: int, answer: queue.Queue[str | OSError]) -> None:
    try:
        answer.put(str(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][4][0]))
    except OSError as error:
        answer.put(error)


def _connection(lab: LabAddress, context: ssl.SSLContext) -> http.client.HTTPSConnection:
    connection = http.client.HTTPSConnection(*lab.first_hop, timeout=TIMEOUT_S, context=context)
    proxy = lab.proxy
    if proxy is not None:
        user = f"{proxy.username}:{proxy.password or ''}".encode() if proxy.username else b""
        headers = {"Proxy-Authorization": f"Basic {base64.b64encode(user).decode()}"} if user else {}
        connection.set_tunnel(lab.host, lab.port, headers)
    return connection


def _certificate(lab: LabAddress) -> x509.Certificate:
    """What the server shows, whoever that is."""
    connection = _connection(lab, _believing_anybody())
    try:
        connection.connect()
        assert isinstance(connection.sock, ssl.SSLSocket)
        shown = connection.sock.getpeercert(binary_form=True)
    finally:
        connection.close()
    assert shown is not None, "a TLS server always shows a certificate"
    return x509.load_der_x509_certificate(shown)


def _believing_anybody() -> ssl.SSLContext:
    """To look at a certificate; nothing that matters is said or believed over such a connection."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _refusal(lab: LabAddress, context: ssl.SSLContext) -> ssl.SSLCertVerificationError | None:
    """Why a handshake fails that verifies as ``context`` says; None if it does not."""
    connection = _connection(lab, context)
    try:
        connection.connect()
    except ssl.SSLCertVerificationError as error:
        return error
    finally:
        connection.close()
    return None


def _clock_ahead(lab: LabAddress) -> float | None:
    """By how many seconds this clock is ahead of the lab's, give or take one."""
    connection = _connection(lab, _believing_anybody())
    try:
        connection.connect()
        asked = time.time()
        connection.request("GET", "/health")
        date = connection.getresponse().headers.get("Date")
        answered = time.time()
    finally:
        connection.close()
    if date is None:
        return None
    return (asked + answered) / 2 - (parsedate_to_datetime(date).timestamp() + _DATE_LAG_S)


def _names(certificate: x509.Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [str(name.value) for name in names]


def _by_proxy(lab: LabAddress) -> str:
    return "" if lab.proxy is None else f", the proxy on the way to {lab}"


def _reason(error: Exception) -> str:
    return str(getattr(error, "reason", "") or getattr(error, "strerror", "") or error or type(error).__name__)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
