"""Time stamps (RFC 3161): a server outside signs that something existed by a moment. `openssl ts` checks them, too."""

import hashlib
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlops_ray.errors import ConfigurationError, IntegrityError, UnavailableError
from mlops_ray.governance.references import without_credentials

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

TIMEOUT_S = 10.0
_QUERY = "application/timestamp-query"
_CERTIFICATES, _LONG = 0xA0, 0x80

# rfc3161_client and httpx are imported inside the functions: only who stamps or verifies needs them.


def time_stamp(url: str, content: bytes) -> bytes:
    """What the server at `url` answers, DER, once it is known to be about this content.

    Raises UnavailableError if it does not answer, or with something else.
    """
    import httpx
    from rfc3161_client import TimestampRequestBuilder
    from rfc3161_client.base import HashAlgorithm

    server = f"The time stamp server {without_credentials(url)}"
    request = TimestampRequestBuilder().data(content).hash_algorithm(HashAlgorithm.SHA256).build()
    try:
        answer = httpx.post(url, content=request.as_bytes(), headers={"content-type": _QUERY}, timeout=TIMEOUT_S)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise UnavailableError(f"{server} does not answer: {type(error).__name__}.") from error
    if answer.status_code != httpx.codes.OK:
        raise UnavailableError(f"{server} answered {answer.status_code}, not 200.")
    try:
        found = _parsed(answer.content)
        _expect_about(found, content)
    except IntegrityError as error:
        raise UnavailableError(f"{server} gave no time stamp: {error}") from error
    if found.tst_info.nonce != request.nonce:
        raise UnavailableError(f"{server} gave an older answer: the nonce is another.")
    return answer.content


def stamped_at(answer: bytes, content: bytes, roots: "list[Certificate]") -> datetime:
    """When a server stamped this content. roots: the certificates that are trusted; with none, what the answer says.

    Raises IntegrityError if the answer is about something else, or no root stands behind it.
    """
    from rfc3161_client import VerificationError
    from rfc3161_client.verify import VerifierBuilder

    found = _parsed(answer)
    _expect_about(found, content)
    if roots:
        try:
            VerifierBuilder(roots=roots).build().verify_message(found, content)
        except (VerificationError, ValueError) as error:
            raise IntegrityError(f"the time stamp is not by a server that is trusted: {error}") from error
    moment: datetime = found.tst_info.gen_time
    return moment


def root_certificates(file: str) -> "list[Certificate]":
    """The certificates in a PEM file. Raises ConfigurationError if it cannot be read or has none."""
    from cryptography.x509 import load_pem_x509_certificates

    try:
        return load_pem_x509_certificates(Path(file).read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"audit_time_stamp_roots: {file} cannot be read: {type(error).__name__}.") from None


def _parsed(answer: bytes) -> Any:
    from rfc3161_client import decode_timestamp_response

    try:
        return decode_timestamp_response(_in_order(answer))
    except (ValueError, IndexError) as error:
        raise IntegrityError(f"it is no time stamp: {error}") from error


def _expect_about(found: Any, content: bytes) -> None:
    if found.status not in (0, 1):  # granted, granted with modifications
        raise IntegrityError(f"the server refused it with status {found.status}.")
    if found.tst_info.message_imprint.message != hashlib.sha256(content).digest():
        raise IntegrityError("the time stamp is about something else.")


def _in_order(answer: bytes) -> bytes:
    """The same with its certificates in the order of their bytes, as DER has a set.

    OpenSSL leaves them as they came, which rfc3161_client does not read; no signature covers their order.
    """
    response = _parts(answer, 0)
    if len(response) < 2:  # refused, so there is nothing but the status
        return answer
    token = _parts(answer, response[1][0])
    signed = _parts(answer, _parts(answer, token[1][0])[0][0])
    found = next((part for part in signed if answer[part[0]] == _CERTIFICATES), None)
    if found is None:
        return answer
    certificates = _parts(answer, found[0])
    start, end = certificates[0][0], certificates[-1][1]
    return answer[:start] + b"".join(sorted(answer[one:until] for one, until in certificates)) + answer[end:]


def _parts(content: bytes, start: int) -> list[tuple[int, int]]:
    """Where each part of the value at `start` begins and ends (X.690, 8.1)."""
    at, end = _inside(content, start)
    found = []
    while at < end:
        until = _inside(content, at)[1]
        found.append((at, until))
        at = until
    return found


def _inside(content: bytes, start: int) -> tuple[int, int]:
    length, at = content[start + 1], start + 2
    if length >= _LONG:
        size = length - _LONG
        length, at = int.from_bytes(content[at : at + size]), at + size
    return at, at + length
