"""A small OpenID provider on a port of this machine: the code flow with PKCE, and tokens signed by a real key.

What a person would do at it happens at once: whoever comes is `claims["sub"]`. Tests change `claims`, `key` and
`answer` to make it lie.
"""

import base64
import hashlib
import secrets
import socket
import threading
import time
from typing import Any
from urllib.parse import parse_qsl, urlencode

import jwt
import uvicorn
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from tests.unit.test_auth import OTHER_KEY, RSA_KEY, jwk

CLIENT, SECRET = "console", "s3cret:%"
KEYS = {"its own": RSA_KEY, "another's": OTHER_KEY}


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class OidcProvider:
    """claims: of the next ID token, over the right ones; None leaves one out. asked: what it was sent last."""

    def __init__(self, redirect: str):
        self.redirect, self.claims, self.key = redirect, dict[str, Any](), "its own"
        self.answer = dict[str, str]()
        self._codes: dict[str, dict[str, str]] = {}
        self.issuer = f"http://127.0.0.1:{(port := free_port())}"
        self.authorize = f"{self.issuer}/authorize"
        app = Starlette(
            routes=[
                Route("/.well-known/openid-configuration", self._describe),
                Route("/authorize", self._authorize),
                Route("/token", self._token, methods=["POST"]),
            ]
        )
        self._server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error", lifespan="off"))
        self._thread = threading.Thread(target=self._server.run)

    def start(self) -> None:
        self._thread.start()
        while not self._server.started:
            time.sleep(0.001)

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join()

    async def _describe(self, request: Request) -> Response:
        described = {"issuer": self.issuer, "authorization_endpoint": self.authorize}
        return JSONResponse(described | {"token_endpoint": f"{self.issuer}/token"})

    async def _authorize(self, request: Request) -> Response:
        asked = dict(request.query_params)
        assert asked["redirect_uri"] == self.redirect
        assert (asked["client_id"], asked["response_type"]) == (CLIENT, "code")
        assert asked["code_challenge_method"] == "S256"
        assert "openid" in asked["scope"].split()
        code = secrets.token_urlsafe(16)
        self._codes[code] = asked
        given = {"code": code, "state": asked["state"], "iss": self.issuer} | self.answer
        return RedirectResponse(f"{self.redirect}?{urlencode({k: v for k, v in given.items() if v})}", 302)

    async def _token(self, request: Request) -> Response:
        form = dict(parse_qsl((await request.body()).decode()))
        expected = base64.b64encode(f"{CLIENT}:s3cret%3A%25".encode()).decode()
        asked = self._codes.pop(form.get("code", ""), None)  # a code counts once
        if request.headers.get("authorization") != f"Basic {expected}" or asked is None:
            return JSONResponse({"error": "invalid_grant"}, 400)
        digest = hashlib.sha256(form["code_verifier"].encode()).digest()
        assert base64.urlsafe_b64encode(digest).decode().rstrip("=") == asked["code_challenge"]
        assert form["redirect_uri"] == asked["redirect_uri"]
        now = int(time.time())
        claims = {"iss": self.issuer, "aud": CLIENT, "exp": now + 300, "iat": now, "nonce": asked["nonce"]}
        claims = {k: v for k, v in (claims | self.claims).items() if v is not None}
        token = jwt.encode(claims, _signing(self.key), algorithm="RS256", headers={"kid": "one"})
        return JSONResponse({"access_token": "x", "token_type": "Bearer", "id_token": token})


def key_set() -> dict[str, Any]:
    return {"keys": [jwk(RSA_KEY, "one")]}


def _signing(name: str) -> RSAPrivateKey:
    return KEYS[name]
