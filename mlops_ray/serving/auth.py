"""Who may ask: API keys and OIDC tokens, from the header of a request to a principal."""

import hashlib
import json
import logging
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import jwt

from mlops_ray.config import Settings
from mlops_ray.errors import ConfigurationError
from mlops_ray.governance.principals import ROLES, Principal, Role
from mlops_ray.serving.http import HttpError

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "ES256", "ES384", "EdDSA")
VERIFIED_FOR_S = 60.0
MAX_TOKEN_BYTES = 8_192
_KNOWN_TOKENS = 10_000
_KEY_PREFIX = b"mlr_"

_logger = logging.getLogger(__name__)


class Guard:
    """Tells who asks and whether they may, from what it was last given: it never waits for anything.

    keys: principals by the SHA-256 of their key; replaced as a whole when they change. tokens: None without OIDC.
    """

    def __init__(self, use_case: str | None, keys: Mapping[str, Principal], tokens: "Tokens | None" = None):
        self.keys = keys
        self.tokens = tokens
        self.replicas = 1
        self._use_case = use_case
        self._buckets: dict[str, Bucket] = {}

    def admit(self, headers: Mapping[bytes, bytes], role: Role | None) -> Principal:
        """The caller. Raises HttpError 401 without a valid credential, 403 without `role`, 429 above their rate."""
        principal = self._principal(headers)
        now = datetime.now(UTC)
        if principal.expires_at is not None and principal.expires_at <= now:
            raise _unauthorized("The credential has expired. Ask an administrator for a new one.")
        if role is not None and not principal.may(role, self._use_case, now):
            where = f" on {self._use_case}" if self._use_case else ""
            raise HttpError(403, f"This credential does not carry the role {role!r}{where}.", "authorization")
        if principal.requests_per_s is not None:
            self._expect_within_rate(principal, principal.requests_per_s)
        return principal

    def _principal(self, headers: Mapping[bytes, bytes]) -> Principal:
        kind, _, token = headers.get(b"authorization", b"").partition(b" ")
        if kind.lower() != b"bearer" or not token:
            raise _unauthorized("Send a credential: 'Authorization: Bearer <API key or OIDC token>'.")
        if token.startswith(_KEY_PREFIX):
            principal = self.keys.get(hashlib.sha256(token).hexdigest())
            if principal is None:
                raise _unauthorized("This API key is not known, or was revoked.")
            return principal
        if self.tokens is None or len(token) > MAX_TOKEN_BYTES:
            raise _unauthorized("This credential is not known.")
        return self.tokens.principal(token)

    def _expect_within_rate(self, principal: Principal, requests_per_s: float) -> None:
        """Each replica gives out its share of the rate, since requests are spread evenly."""
        bucket = self._buckets.setdefault(principal.id, Bucket())
        wait_s = bucket.take(requests_per_s / self.replicas, time.monotonic())
        if wait_s > 0:
            raise HttpError(
                429,
                f"More than {requests_per_s:g} requests/s with this key. Ask again in {wait_s:.1f} s.",
                headers={"retry-after": str(max(1, round(wait_s)))},
            )


class Bucket:
    """A token bucket that holds what accumulates in one second, and at least one request."""

    def __init__(self) -> None:
        self._left, self._at = 0.0, float("-inf")

    def take(self, per_s: float, now_s: float) -> float:
        """Take one; returns 0, or the seconds until there is one again."""
        self._left = min(max(1.0, per_s), self._left + (now_s - self._at) * per_s)
        self._at = now_s
        if self._left >= 1.0:
            self._left -= 1.0
            return 0.0
        return (1.0 - self._left) / per_s


class Tokens:
    """OIDC bearer tokens (JWT, RFC 7519): issuer, audience, expiry and signature checked against a key set (RFC 7517).

    A token that was verified is not verified again for a minute, nor beyond its expiry.
    """

    def __init__(self, settings: Settings, keys: Mapping[str, Any]):
        self.keys = keys
        self._issuer, self._audience = settings.oidc_issuer, settings.oidc_audience
        self._roles_claim, self._use_cases_claim = settings.oidc_roles_claim, settings.oidc_use_cases_claim
        self._verified: dict[bytes, tuple[float, Principal]] = {}

    def principal(self, token: bytes) -> Principal:
        """Raises HttpError 401 if anything about the token is wrong."""
        known = self._verified.get(token)
        if known is not None and known[0] > time.monotonic():
            return known[1]
        principal = self._verify(token)
        if len(self._verified) >= _KNOWN_TOKENS:
            self._verified.clear()
        self._verified[token] = (time.monotonic() + VERIFIED_FOR_S, principal)
        return principal

    def _verify(self, token: bytes) -> Principal:
        try:
            head = jwt.get_unverified_header(token)
            key = self.keys.get(str(head.get("kid", "")))
            if key is None:
                raise _unauthorized("The token is signed with a key that is not in the configured key set.")
            claims = jwt.decode(
                token, key.key, algorithms=[key.algorithm_name] if key.algorithm_name in ALGORITHMS else [],
                audience=self._audience, issuer=self._issuer, options={"require": ["exp", "iss", "aud", "sub"]},
            )  # fmt: skip
        except (jwt.PyJWTError, ValueError) as error:
            raise _unauthorized(f"The token is not valid: {error}.") from None
        named = _texts(claims.get(self._roles_claim))
        return Principal(
            id=f"{self._issuer}|{claims['sub']}",
            name=str(claims["sub"]),
            roles=tuple(role for role in ROLES if role in named),
            use_cases=tuple(_texts(claims.get(self._use_cases_claim))),
            expires_at=datetime.fromtimestamp(claims["exp"], UTC),
        )


def read_key_set(settings: Settings) -> dict[str, Any]:
    """The keys of `oidc_keys` (a file or an https URL) by their id.

    Raises ConfigurationError if they cannot be had or are no key set, so that a change of keys is seen, not guessed.
    """
    place = settings.oidc_keys
    try:
        if urlsplit(place).scheme in ("http", "https"):
            text = httpx.get(place, timeout=5, follow_redirects=False).raise_for_status().text
        else:
            text = Path(place.removeprefix("file://")).read_text()
        found = jwt.PyJWKSet.from_dict(json.loads(text))
    except (OSError, ValueError, httpx.HTTPError, jwt.PyJWTError) as error:
        raise ConfigurationError(f"oidc_keys: {place} is no readable key set: {error}") from error
    return {str(key.key_id or ""): key for key in found.keys}


def tokens_of(settings: Settings) -> Tokens | None:
    """None where no OIDC issuer is configured. Raises ConfigurationError if its keys cannot be read."""
    return Tokens(settings, read_key_set(settings)) if settings.oidc_issuer else None


def refreshed(tokens: Tokens | None, settings: Settings) -> Tokens | None:
    """With the key set as it stands now; with the one before where it cannot be read."""
    if tokens is None:
        return None
    try:
        return Tokens(settings, read_key_set(settings))
    except ConfigurationError as error:
        _logger.warning("Keeping the key set as it was: %s", error)
        return tokens


def _texts(claim: Any) -> list[str]:
    """A claim that is a list, or one text with spaces between, as providers write it."""
    return claim.split() if isinstance(claim, str) else [str(part) for part in claim or []]


def _unauthorized(text: str) -> HttpError:
    return HttpError(401, text, "authorization", {"www-authenticate": "Bearer"})
