"""The provider: where people prove who they are, by OpenID Connect's code flow with PKCE.

OpenID Connect Core 1.0, section 3.1; PKCE as RFC 7636 with S256; the issuer in the answer as RFC 9207. Sent are a state
and a nonce that only the browser knows that began: they and PKCE's verifier stand in a cookie of it, signed with a
secret of this process. Who cannot show that cookie has begun nothing, so nobody is signed in as another by a link.
"""

import asyncio
import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, quote_plus, urlsplit

import httpx
import jwt
from oauthlib.common import add_params_to_uri
from oauthlib.oauth2 import OAuth2Error, WebApplicationClient

from mlops_ray.config import Settings
from mlops_ray.errors import ConfigurationError, ForbiddenError, UnavailableError
from mlops_ray.governance.development_keys import is_loopback
from mlops_ray.governance.references import value_of

CALLBACK = "/console/sign-in/callback"
BEGUN_FOR_S = 600
WITHIN_S = 5.0
DESCRIBED_FOR_S = 3_600.0
MAX_BYTES = 256_000
_SCOPES = "openid profile email"
_DOCUMENT = "/.well-known/openid-configuration"
_AGAIN = "Begin again."


@dataclass(frozen=True)
class Begun:
    """Where the browser goes, and the cookie with which it comes back."""

    url: str
    cookie: str


@dataclass(frozen=True)
class Returned:
    """id_token: not verified yet; it must be for `client_id` and say `nonce`. to: where the person wanted to go."""

    id_token: str
    client_id: str
    nonce: str
    to: str


class Provider:
    """Reads the provider's description when the first person comes, so that no server waits for it to start."""

    def __init__(self, settings: Settings):
        self._issuer, self._client_id = settings.oidc_issuer, settings.oidc_client_id
        self._secret = settings.oidc_client_secret
        self._redirect = settings.console_url.rstrip("/") + CALLBACK
        self._cookies = secrets.token_bytes(32)
        self._described: tuple[float, Mapping[str, Any]] = (0.0, {})

    @property
    def host(self) -> str:
        """Whose button it is."""
        return urlsplit(self._issuer).netloc

    async def begin(self, to: str) -> Begun:
        """Raises UnavailableError where the provider does not answer, ConfigurationError where it answers nonsense."""
        said, client = await self._description(), WebApplicationClient(self._client_id)
        state, nonce = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
        verifier = client.create_code_verifier(64)
        challenge = client.create_code_challenge(verifier, "S256")
        asked = {"response_type": "code", "client_id": self._client_id, "redirect_uri": self._redirect}
        asked |= {"scope": _SCOPES, "state": state, "nonce": nonce}
        asked |= {"code_challenge": challenge, "code_challenge_method": "S256"}
        url = add_params_to_uri(said["authorization_endpoint"], asked.items())
        kept = {"state": state, "nonce": nonce, "verifier": verifier, "to": to, "exp": int(time.time()) + BEGUN_FOR_S}
        return Begun(url, jwt.encode(kept, self._cookies, "HS256"))

    async def finish(self, cookie: str, query: str) -> Returned:
        """What the provider gives for the code in `query`. Raises ForbiddenError, with a sentence, where this browser
        began nothing, or the provider refuses; UnavailableError where it does not answer."""
        try:
            begun = jwt.decode(cookie, self._cookies, ["HS256"], options={"require": ["exp"]})
        except jwt.PyJWTError:
            raise ForbiddenError(f"Signing in was not begun in this browser within 10 minutes. {_AGAIN}") from None
        client = WebApplicationClient(self._client_id)
        try:
            # Only the query is read. That nothing goes in the clear, the settings and `_is_safe` see to.
            code = client.parse_request_uri_response(f"https://console?{query}", begun["state"])["code"]
        except OAuth2Error as error:
            raise ForbiddenError(f"The provider signed nobody in ({error.error[:100]!a}). {_AGAIN}") from None
        said = await self._description()
        if dict(parse_qsl(query)).get("iss", self._issuer) != self._issuer:
            raise ForbiddenError(f"Another provider answered than the one that was asked. {_AGAIN}")
        body = client.prepare_request_body(code, self._redirect, code_verifier=begun["verifier"])
        answer = await self._ask("POST", said["token_endpoint"], body)
        id_token = answer.get("id_token")
        if not isinstance(id_token, str):
            why = str(answer.get("error"))[:100]
            raise ForbiddenError(f"The provider took the code for none of its own ({why!a}). {_AGAIN}")
        return Returned(id_token, self._client_id, begun["nonce"], begun["to"])

    async def _description(self) -> Mapping[str, Any]:
        """Its endpoints (OpenID Connect Discovery 1.0, section 4), read again after an hour."""
        until, said = self._described
        if time.monotonic() < until:
            return said
        said = await self._ask("GET", self._issuer.rstrip("/") + _DOCUMENT)
        if said.get("issuer") != self._issuer:  # section 4.3: or one provider could speak for another
            raise ConfigurationError(
                f"The issuer at oidc_issuer {self._issuer} says it is {said.get('issuer')!r:.200}."
            )
        for name in ("authorization_endpoint", "token_endpoint"):
            if not _is_safe(str(said.get(name, ""))):
                raise ConfigurationError(f"{name} of {self._issuer} is no https URL: {said.get(name)!r:.200}.")
        self._described = time.monotonic() + DESCRIBED_FOR_S, said
        return said

    async def _ask(self, method: str, url: str, body: str | None = None) -> Mapping[str, Any]:
        """An object of JSON, whatever the status: refusals are told in one (RFC 6749, section 5.2)."""
        auth, headers = None, {"accept": "application/json"}
        if body is not None:
            headers["content-type"] = "application/x-www-form-urlencoded"
            # Each part is encoded before (RFC 6749, section 2.3.1), so that a colon in one divides nothing.
            if self._secret:
                auth = httpx.BasicAuth(quote_plus(self._client_id), quote_plus(value_of(self._secret)))
        try:
            async with (
                asyncio.timeout(WITHIN_S),
                httpx.AsyncClient(timeout=WITHIN_S) as http,
                http.stream(method, url, content=body, headers=headers, auth=auth) as answer,
            ):
                found = json.loads(await _content(answer))
            if not isinstance(found, dict):
                raise ValueError("it is no object")
        except (httpx.HTTPError, ValueError, RecursionError, TimeoutError) as error:
            raise UnavailableError(f"{url} gave no answer that is understood: {error!r:.200}") from error
        return found


async def _content(answer: httpx.Response) -> bytes:
    """Raises ValueError for more than any provider has to say."""
    content = bytearray()
    async for part in answer.aiter_bytes():
        content += part
        if len(content) > MAX_BYTES:
            raise ValueError(f"it has more than {MAX_BYTES:,} bytes")
    return bytes(content)


def _is_safe(url: str) -> bool:
    """https; plain http only to this machine itself, as for a provider that somebody tries out."""
    parts = urlsplit(url)
    return parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname or ""))
