"""Does the lab know this hospital's key? A signed question to the fleet API that changes nothing there.

Flower 1.41 has no request for it. What serves is a request to activate the node, with a heartbeat interval that is not
allowed: the SuperLink verifies the signature, looks for the key, looks at the interval, and stops. The answer says how
far it came, and a node that runs under the same key notices nothing. tests/test_doctor.py holds this against Flower.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import cast

import httpx
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from flwr.proto.fleet_pb2 import ActivateNodeRequest
from flwr.supercore.error import ApiErrorCode, FlowerError
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from client.connection import TIMEOUT_S, trusting

_NEVER_ALLOWED_S = 0.0  # Flower's least is some seconds


class Standing(StrEnum):
    """What the lab makes of a key."""

    KNOWN = "known"
    UNKNOWN = "unknown"  # never registered, or revoked: the SuperLink does not say which
    REFUSED = "refused"  # the signature or its time is wrong
    UNCLEAR = "unclear"


def ask_standing(address: str, authority: Path, key: Path) -> Standing:
    """Asks the lab.

    Args:
        address: host and port of the lab.
        authority: certificate of the lab's CA, PEM.
        key: the node's private key, OpenSSH.

    Raises:
        httpx.HTTPError: no answer.
        OSError, ValueError: the key or the certificate cannot be read.
    """
    private = cast(EllipticCurvePrivateKey, load_ssh_private_key(key.read_bytes(), password=None))
    signed = NodeAuthHttpInterceptor(private, private.public_key())
    client = FleetHttpClient(f"https://{address}", interceptors=[signed], verify=trusting(authority), timeout=TIMEOUT_S)
    question = ActivateNodeRequest(
        public_key=public_key_to_bytes(private.public_key()), heartbeat_interval=_NEVER_ALLOWED_S
    )
    try:
        client.ActivateNode(question)
    except httpx.HTTPStatusError as error:
        return _standing(error.response)
    finally:
        client.close()
    return Standing.UNCLEAR


def _standing(response: httpx.Response) -> Standing:
    if response.status_code == httpx.codes.UNAUTHORIZED:
        return Standing.REFUSED
    error = FlowerError.from_json(response.text)
    reached: dict[int, Standing] = {
        ApiErrorCode.FLEET_INVALID_HEARTBEAT_INTERVAL: Standing.KNOWN,
        ApiErrorCode.FLEET_NODE_ACTIVATION_FAILED: Standing.UNKNOWN,
    }
    return Standing.UNCLEAR if error is None else reached.get(error.code, Standing.UNCLEAR)
