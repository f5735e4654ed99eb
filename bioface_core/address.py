"""Where is a machine reached? At HOST:PORT: a name or an address, as an administrator writes it and reads it out."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated

from pydantic import AfterValidator

_LABEL = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_NAME = re.compile(rf"(?=.{{1,253}}$){_LABEL}(\.{_LABEL})*")


def host_and_port(address: str) -> tuple[str, int]:
    """``lab.example.org:8443`` in two; an IPv6 address loses its brackets.

    Raises:
        ValueError: it is no HOST:PORT.
    """
    host, _, port = address.rpartition(":")
    if not _is_host(host) or not re.fullmatch(r"[0-9]{1,5}", port) or not 1 <= int(port) <= 65535:
        raise ValueError(f"expected HOST:PORT, such as lab.example.org:8443 or [2001:db8::1]:8443, not {address!r}")
    return host.strip("[]"), int(port)


def _is_host(host: str) -> bool:
    if not host.startswith("["):
        return _NAME.fullmatch(host) is not None
    try:
        return host.endswith("]") and bool(ipaddress.IPv6Address(host[1:-1]))
    except ValueError:
        return False


def _checked(address: str) -> str:
    host_and_port(address)
    return address


Address = Annotated[str, AfterValidator(_checked)]
