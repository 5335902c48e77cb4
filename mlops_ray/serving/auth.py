"""Who may ask: API keys and OIDC tokens, from the header of a request to a principal."""

import hashlib
import json
import logging
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from mlops_ray.client.deadline import DeadlineBackend
from mlops_ray.config import Settings
from mlops_ray.errors import ConfigurationError
from mlops_ray.governance.development_keys import is_loopback
from mlops_ray.governance.principals import (
    ALL_USE_CASES,
    RESERVED_NAMES,
    ROLES,
    Principal,
    Role,
    folded,
    person_of_subject,
)
from mlops_ray.serving.http import HttpError

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "ES256", "ES384", "EdDSA")
VERIFIED_FOR_S = 60.0
SIGNED_IN_FOR = timedelta(hours=1)
LEAST_RSA_BITS = 2_048
KEY_SET_WITHIN_S = 5.0
LONGEST_VALID_S = 10 * 366 * 86_400.0
MAX_TOKEN_BYTES = 8_192
# Of a provider's clock and ours: a token is sent as soon as it is given out. Its end is kept to the second (`admit`).
CLOCKS_DIFFER_S = 60.0
_KNOWN_TOKENS = 10_000
_SUBJECT_CHARACTERS = 255  # OpenID Connect Core 1.0, section 2
_KEY_PREFIX = b"mlr_"
_SCOPES = ("scope", "scp")  # RFC 6749, section 3.3; and as Microsoft names it

_logger = logging.getLogger(__name__)


class Guard:
    """Tells who asks and whether they may, from what it was last given: it never waits for anything.

    keys: principals by the SHA-256 of their key; replaced as a whole when they change. tokens: None without OIDC.
    public: others than this machine reach the server, so that development keys do not count. clock: seconds since 1970,
    by which keys end; all who let one in should have the same (`DatabaseClock`).
    """

    def __init__(
        self,
        use_case: str | None,
        keys: Mapping[str, Principal],
        tokens: "Tokens | None" = None,
        public: bool = False,
        clock: Callable[[], float] = time.time,
    ):
        self.keys = keys
        self.tokens = tokens
        self.replicas = 1
        self._use_case, self.public, self._clock = use_case, public, clock
        self._buckets: dict[str, Bucket] = {}

    @property
    def keys(self) -> Mapping[str, Principal]:
        return self._keys

    @keys.setter
    def keys(self, keys: Mapping[str, Principal]) -> None:
        self._keys = keys
        self._by_id = {principal.id: principal for principal in keys.values()}
        self._owners: dict[str, set[str]] = {}
        for principal in keys.values():
            self._owners.setdefault(folded(principal.name), set()).add(principal.person or principal.id)

    def admit(self, headers: Mapping[bytes, bytes], role: Role | None) -> Principal:
        """The caller. Raises HttpError 401 without a valid credential, 403 without `role`, 429 above their rate."""
        principal = self._principal(headers)
        now = self._expect_not_ended(principal)
        if role is not None and not principal.may(role, self._use_case, now):
            where = f" on {self._use_case}" if self._use_case else ""
            raise HttpError(403, f"This credential does not carry the role {role!r}{where}.", "authorization")
        if principal.requests_per_s is not None:
            self._expect_within_rate(principal, principal.requests_per_s)
        return principal

    def admit_identity(self, id_token: bytes, client_id: str, nonce: str) -> Principal:
        """Whom the provider signed in for us, for `SIGNED_IN_FOR`: then it is asked again. Raises HttpError 401 for
        what is not for this client, or of another time than the one that sent `nonce`."""
        if self.tokens is None or len(id_token) > MAX_TOKEN_BYTES:
            raise _unauthorized("This credential is not known.")
        principal = self._of_one_name(self.tokens.identity(id_token, client_id, nonce))
        now = self._expect_not_ended(principal)
        return replace(principal, expires_at=now + SIGNED_IN_FOR)

    def readmit(self, principal: Principal) -> Principal:
        """Who was admitted before, as their key stands now, though nobody kept it; who came with a token, until that
        ends. Raises HttpError 401 once it has ended. It counts against no rate."""
        if principal.granted is None:
            known = self._by_id.get(principal.id)
            if known is None:
                raise _unauthorized("This API key was revoked.")
            principal = known
        elif self.tokens is None:
            raise _unauthorized("Tokens do not count here any more.")
        self._expect_not_ended(principal)
        return principal

    def _expect_not_ended(self, principal: Principal) -> datetime:
        """Raise HttpError 401 for a credential that has; returns the moment at which it had not."""
        now = datetime.fromtimestamp(self._clock(), UTC)
        if principal.expires_at is not None and principal.expires_at <= now:
            raise _unauthorized("The credential has expired. Ask an administrator for a new one.")
        return now

    def _principal(self, headers: Mapping[bytes, bytes]) -> Principal:
        kind, _, token = headers.get(b"authorization", b"").partition(b" ")
        if kind.lower() != b"bearer" or not token:
            raise _unauthorized("Send a credential: 'Authorization: Bearer <API key or OIDC token>'.")
        if token.startswith(_KEY_PREFIX):
            principal = self._keys.get(hashlib.sha256(token).hexdigest())
            if principal is None:
                raise _unauthorized("This API key is not known, or was revoked.")
            if principal.development and self.public:
                raise _unauthorized("The development key counts only where this machine alone reaches the server.")
            return principal
        if self.tokens is None or len(token) > MAX_TOKEN_BYTES:
            raise _unauthorized("This credential is not known.")
        return self._of_one_name(self.tokens.principal(token))

    def _of_one_name(self, principal: Principal) -> Principal:
        """Raise HttpError 401 where a token's `sub` is the name of somebody else."""
        name = folded(principal.name)
        owners = self._owners.get(name, {principal.person})
        if name in RESERVED_NAMES or owners != {principal.person}:  # a reader of the audit log sees the name
            raise _unauthorized(
                "The token's sub is the name of an API key of another. Revoke that key, or give it another name."
            )
        return principal

    def _expect_within_rate(self, principal: Principal, requests_per_s: float) -> None:
        """Each replica gives out its share of the rate, since requests are spread evenly."""
        if len(self._buckets) >= _KNOWN_TOKENS and principal.id not in self._buckets:
            self._buckets.clear()  # each begins full
        bucket = self._buckets.setdefault(principal.id, Bucket())
        wait_s = bucket.take(requests_per_s / self.replicas, time.monotonic())
        if wait_s > 0:
            raise HttpError(
                429,
                f"More than {requests_per_s:g} requests/s with this credential. Ask again in {wait_s:.1f} s.",
                headers={"retry-after": str(max(1, round(wait_s)))},
            )


def is_public(settings: Settings, host: str) -> bool:
    """Whether others than this machine reach a server that listens on `host`, or is meant to."""
    return not (is_loopback(host) and is_loopback(settings.http_host))


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

    A token may what the settings grant the groups that it names, and nothing else: whoever names groups at the
    provider gives no roles here. A token that was verified is not verified again for a minute, nor beyond its expiry.
    """

    def __init__(self, settings: Settings, keys: Mapping[str, jwt.PyJWK]):
        self.keys = keys
        self._issuer, self._audience = settings.oidc_issuer, settings.oidc_audience
        self._groups_claim, self._groups = settings.oidc_groups_claim, groups_of(settings)
        self._people = settings.oidc_people
        self._requests_per_s = settings.oidc_requests_per_s
        self._verified: dict[bytes, tuple[float, Principal]] = {}

    def principal(self, token: bytes) -> Principal:
        """Raises HttpError 401 if anything about the token is wrong."""
        known = self._verified.get(token)
        if known is not None and known[0] > time.monotonic():
            return known[1]
        principal = self._principal(self._verify(token))
        if len(self._verified) >= _KNOWN_TOKENS:
            self._verified.clear()
        self._verified[token] = (time.monotonic() + VERIFIED_FOR_S, principal)
        return principal

    def identity(self, id_token: bytes, client_id: str, nonce: str) -> Principal:
        """Of an ID token (OpenID Connect Core 1.0, section 3.1.3.7), which is for a client and no credential here.

        Raises HttpError 401 if anything about it is wrong."""
        claims = self._verify(id_token, client_id)
        if not (isinstance(said := claims.get("nonce"), str) and secrets.compare_digest(said.encode(), nonce.encode())):
            raise _unauthorized("The token is not valid: it is of another attempt to sign in.")
        several = isinstance(claims["aud"], list) and len(claims["aud"]) > 1
        if claims.get("azp", None if several else client_id) != client_id:
            raise _unauthorized("The token is not valid: it was given to another client.")
        return self._principal(claims)

    def _verify(self, token: bytes, audience: str | None = None) -> dict[str, Any]:
        try:
            key = self.keys.get(str(jwt.get_unverified_header(token).get("kid", "")))
            if key is None:
                raise jwt.InvalidKeyError("it is signed with a key that is not in the configured key set")
            return jwt.decode(
                token, key.key, algorithms=[key.algorithm_name],
                audience=audience or self._audience, issuer=self._issuer, leeway=CLOCKS_DIFFER_S,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )  # fmt: skip
        except Exception as error:  # whatever a stranger's bytes make the library raise, they are no token
            raise _unauthorized(f"The token is not valid: {str(error)[:200]}.") from None

    def _principal(self, claims: Mapping[str, Any]) -> Principal:
        for name in ("nbf", "iat"):
            _moment(claims.get(name, 0), name)
        groups = _texts(claims, self._groups_claim)
        if self._groups_claim == "email" and claims.get("email_verified") is not True:
            groups = ()  # anybody can write another's address where they sign up
        name = _subject(claims["sub"])
        granted = [grant for group in dict.fromkeys(groups) for grant in self._groups.get(group, ())]
        subject = person_of_subject(self._issuer, name)
        return Principal(
            id=subject,
            name=name,
            roles=tuple(role for role in ROLES if role in {role for role, _ in granted}),
            use_cases=tuple(dict.fromkeys(use_case for _, use_case in granted)),
            expires_at=_moment(claims["exp"], "exp"),
            requests_per_s=self._requests_per_s,
            person=self._people.get(name, subject),
            granted=tuple(granted),
        )


def groups_of(settings: Settings) -> dict[str, tuple[tuple[Role, str], ...]]:
    """What `oidc_groups` grants each group: roles, each with its use case. Raises ConfigurationError naming what is
    no role with a use case."""
    return {group: tuple(_grant(group, text) for text in grants) for group, grants in settings.oidc_groups.items()}


def _grant(group: str, text: str) -> tuple[Role, str]:
    role, _, use_case = text.partition(":")
    for known in ROLES:
        if known == role and use_case and use_case == use_case.strip():
            return known, use_case
    raise ConfigurationError(
        f"oidc_groups: {group!r} is granted {text!r}. Write a role ({', '.join(ROLES)}), a colon and a use case or "
        f"{ALL_USE_CASES!r}, such as approve:flights."
    )


def read_key_set(settings: Settings) -> dict[str, jwt.PyJWK]:
    """The keys of `oidc_keys` (a file or an https URL) that may sign a token, by their id.

    Left out, with a line in the log, is what is no key for signatures that a stranger cannot forge: symmetric keys, RSA
    below 2,048 bits (NIST SP 800-131A), `use` other than `sig`. Raises ConfigurationError if the place cannot be read
    or holds no key set, so that a change of keys is seen, not guessed.
    """
    place = settings.oidc_keys
    try:
        if urlsplit(place).scheme in ("http", "https"):
            text = _fetched(place)
        else:
            text = Path(place.removeprefix("file://")).read_text()
        listed = list(json.loads(text)["keys"])
    except (OSError, ValueError, LookupError, TypeError, RecursionError, httpx.HTTPError) as error:
        raise ConfigurationError(f"oidc_keys: {place} is no readable key set: {error}") from error
    found = {}
    for number, described in enumerate(listed):
        try:
            key = _signing_key(described)
        except Exception as error:  # others' keys: whatever is odd about one leaves the rest as they are
            _logger.warning("Key %d of oidc_keys does not count: %s", number, error)
        else:
            found[str(key.key_id or "")] = key
    return found


def _fetched(url: str) -> str:
    network = DeadlineBackend()
    with httpx.Client(timeout=KEY_SET_WITHIN_S) as http:
        network.attach_to(http)
        with network.within(KEY_SET_WITHIN_S):
            return http.get(url).raise_for_status().text


def _signing_key(described: Any) -> jwt.PyJWK:
    """Raises PyJWTError for what may not sign a token; PyJWT raises more for what is no key."""
    if not isinstance(described, dict):
        raise jwt.PyJWKError("it is no object")
    use, operations = described.get("use") or "sig", described.get("key_ops") or ["verify"]
    if use != "sig" or "verify" not in operations:
        raise jwt.PyJWKError(f"it is meant for {use} and {operations}, not for signatures")
    key = jwt.PyJWK(described)
    if key.algorithm_name not in ALGORITHMS:
        raise jwt.PyJWKError(f"its algorithm {key.algorithm_name} is none of {', '.join(ALGORITHMS)}")
    if isinstance(key.key, RSAPublicKey) and key.key.key_size < LEAST_RSA_BITS:
        raise jwt.PyJWKError(f"it has {key.key.key_size} bits, of at least {LEAST_RSA_BITS:,}")
    return key


def tokens_of(settings: Settings) -> Tokens | None:
    """None where no OIDC issuer is configured. Raises ConfigurationError if its keys cannot be read, or none counts."""
    if not settings.oidc_issuer:
        return None
    keys = read_key_set(settings)
    if not keys:
        raise ConfigurationError(f"oidc_keys: {settings.oidc_keys} holds no key that may sign a token; see the log.")
    return Tokens(settings, keys)


def refreshed(tokens: Tokens | None, settings: Settings) -> Tokens | None:
    """With the key set as it stands now, be it empty; with the one before where it cannot be read."""
    if tokens is None:
        return None
    try:
        return Tokens(settings, read_key_set(settings))
    except ConfigurationError as error:
        _logger.warning("Keeping the key set as it was: %s", error)
        return tokens


def _texts(claims: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """A claim that is a list of texts, or one text; () without it. Only in a scope, which is defined so, do spaces
    separate: elsewhere "domain admins" is one group, which a provider writes without a list where it is alone."""
    claim = claims.get(name)
    if isinstance(claim, str):
        return tuple(claim.split()) if name in _SCOPES else (claim,)
    parts = [] if claim is None else claim
    if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
        raise _unauthorized(f"The token is not valid: claim {name} is no list of texts.")
    return tuple(parts)


def _subject(claim: Any) -> str:
    """Goes into the audit log, into terminals and pages: only what can be printed, and is not empty."""
    if (
        isinstance(claim, str)
        and 0 < len(claim) <= _SUBJECT_CHARACTERS
        and claim.isprintable()
        and claim == claim.strip()
    ):
        return claim
    raise _unauthorized(
        f"The token is not valid: claim sub needs 1 to {_SUBJECT_CHARACTERS} printable characters, no space at an end."
    )


def _moment(claim: Any, name: str) -> datetime:
    """A NumericDate (RFC 7519, section 2), at most ten years from now."""
    limit_s = time.time() + LONGEST_VALID_S
    if isinstance(claim, int | float) and not isinstance(claim, bool) and 0 <= claim <= limit_s:
        return datetime.fromtimestamp(claim, UTC)
    raise _unauthorized(f"The token is not valid: claim {name} is no number of seconds within the next ten years.")


def _unauthorized(text: str) -> HttpError:
    return HttpError(401, text, "authorization", {"www-authenticate": "Bearer"})
