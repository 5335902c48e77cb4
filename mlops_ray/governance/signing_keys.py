"""Signing keys: Ed25519, by which anchors and evidence are signed so that `openssl` and others can check them."""

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mlops_ray.errors import ConfigurationError
from mlops_ray.governance.references import value_of

if TYPE_CHECKING:  # it takes 0.1 s to import, which only who signs or verifies has to spend
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

_PUBLIC = re.compile(r"-----BEGIN PUBLIC KEY-----.*?-----END PUBLIC KEY-----", re.DOTALL)
_MAKE_ONE = "Make one: openssl genpkey -algorithm ed25519"


@dataclass(frozen=True)
class Signer:
    """id: which key it is, the beginning of the SHA-256 of the public one."""

    id: str
    private: "Ed25519PrivateKey" = field(repr=False)

    def sign(self, content: bytes) -> bytes:
        return self.private.sign(content)

    def public(self) -> "Mapping[str, Ed25519PublicKey]":
        """As `public_keys` gives them."""
        return {self.id: self.private.public_key()}


def signer_of(setting: str, reference: str) -> Signer:
    """The private key that stands at env:NAME or file:/path, as PEM. Raises ConfigurationError if there is none."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        private = load_pem_private_key(value_of(reference).encode(), None)
    except (ValueError, TypeError) as error:
        raise ConfigurationError(f"{setting}: {reference} is no private key: {type(error).__name__}.") from None
    if not isinstance(private, Ed25519PrivateKey):
        raise ConfigurationError(f"{setting}: {reference} is not Ed25519. {_MAKE_ONE}.")
    return Signer(_id_of(private.public_key()), private)


def public_keys(setting: str, file: str) -> "Mapping[str, Ed25519PublicKey]":
    """The public keys in a PEM file, by their ids: the one that signs now, and those that did before.

    Raises ConfigurationError if it cannot be read or has none.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        found = [load_pem_public_key(text.encode()) for text in _PUBLIC.findall(Path(file).read_text())]
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{setting}: {file} cannot be read: {type(error).__name__}.") from None
    keys = [key for key in found if isinstance(key, Ed25519PublicKey)]
    if not keys or len(keys) < len(found):
        raise ConfigurationError(f"{setting}: {file} does not hold Ed25519 public keys alone. {_MAKE_ONE}.")
    return {_id_of(key): key for key in keys}


def holds(key: "Ed25519PublicKey", content: bytes, signature: str) -> bool:
    """Whether a signature, in base64, is by that key and of that content."""
    from cryptography.exceptions import InvalidSignature

    try:
        key.verify(base64.b64decode(signature, validate=True), content)
    except (InvalidSignature, binascii.Error, ValueError):
        return False
    return True


def _id_of(key: "Ed25519PublicKey") -> str:
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()[:16]
