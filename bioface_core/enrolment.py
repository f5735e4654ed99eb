"""How do hospital and lab introduce themselves? A join request goes to the lab, and a start kit comes back.

A request is signed by the identity whose public half it holds: whoever alters it on its way, or puts it together from
other people's keys, is found out. It proves nothing about who sent it: that is what the telephone is for.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import AfterValidator, ValidationError

from bioface_core.address import Address
from bioface_core.errors import UserError
from bioface_core.identity import is_signed_by, node_public_bytes, sign
from bioface_core.sections import Hash, Name, Section
from bioface_core.validation import explain


def _checked(node_key: str) -> str:
    node_public_bytes(node_key)
    return node_key


NodeKey = Annotated[str, AfterValidator(_checked)]  # OpenSSH text


class JoinRequest(Section):
    """``join-request.json``.

    Attributes:
        version: of this format.
        name: in the federation.
        identity_key: Ed25519 public half, 64 hexadecimal digits.
        node_key: public half of the node's key, OpenSSH text.
        made_at: ISO 8601, UTC.
        signature: of all the others, by the identity; 128 hexadecimal digits.
    """

    version: Literal[1] = 1
    name: Name
    identity_key: Hash
    node_key: NodeKey
    made_at: str
    signature: str = ""

    def signed(self, identity: Ed25519PrivateKey) -> JoinRequest:
        """The request with its signature."""
        return self.model_copy(update={"signature": sign(identity, self.model_dump(exclude={"signature"}))})

    @property
    def is_genuine(self) -> bool:
        """Whether the signature is that of the identity it names."""
        return is_signed_by(self.identity_key, self.model_dump(exclude={"signature"}), self.signature)


class KitLabel(Section):
    """``kit.json``: what a start kit is.

    Attributes:
        hospital: whom it is for.
        address: HOST:PORT of the lab.
        study_id: of the study that lies in it.
        bundle_sha256: of the code the lab runs.
        authority_sha256: fingerprint of the certificate of the lab's authority.
    """

    hospital: Name
    address: Address
    study_id: Hash
    bundle_sha256: Hash
    authority_sha256: Hash


Form = TypeVar("Form", JoinRequest, KitLabel)


def read_form(path: Path, form: type[Form], error: type[UserError], advice: str) -> Form:
    """A request or a label.

    Args:
        path: the JSON file.
        form: which of the two.
        error: raised for a file that is missing or says something else.
        advice: what to do then.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as wrong:
        raise error(f"{path} cannot be read ({wrong.strerror}): {advice}") from wrong
    except (ValueError, RecursionError) as wrong:
        raise error(f"{path} is no JSON: {advice}") from wrong
    if not isinstance(content, dict):
        raise error(f"{path} holds {type(content).__name__}, expected a JSON object: {advice}")
    try:
        return form.model_validate(content)
    except ValidationError as wrong:
        raise error(f"{path}: {explain(wrong, form)}; {advice}") from wrong
