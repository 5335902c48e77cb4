"""Hostile tokens over HTTP: whatever comes in place of a credential is a 401, or gives nothing, and never a 500."""

import base64
import hashlib
import hmac
import json
import logging
import socket
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.unit.test_auth import AUDIENCE, GROUPS, ISSUER, OTHER_KEY, RSA_KEY, jwk, unchecked_text
from tests.unit.test_auth import token as short_token
from tests.unit.test_version_routes import Server, serving

NOW = int(time.time())
FAR = NOW + 86_400  # used long after this file is read, none is refused as expired
token = partial(short_token, exp=FAR)
CLAIMS = {"iss": ISSUER, "aud": AUDIENCE, "sub": "mallory", "exp": FAR, "groups": ["bosses"]}
BOSS: dict[str, Any] = {"sub": "mallory", "groups": ["bosses"]}
SIGNATURE = token().split(".")[2]
ENTRY = json.dumps(jwk(RSA_KEY, "one")).encode()
PEM = RSA_KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def part(value: Any) -> str:
    return (
        base64.urlsafe_b64encode(value if isinstance(value, bytes) else json.dumps(value).encode()).decode().rstrip("=")
    )


def signed_by_hand(header: dict[str, Any], secret: bytes) -> str:
    """HS256 over what a library would refuse to sign: with the provider's public key as the secret."""
    text = f"{part({'typ': 'JWT', 'kid': 'one', **header})}.{part(CLAIMS)}"
    return f"{text}.{part(hmac.digest(secret, text.encode(), hashlib.sha256))}"


REFUSED = {
    "alg none": f"{part({'alg': 'none', 'kid': 'one'})}.{part(CLAIMS)}.",
    "alg none with another's signature": f"{part({'alg': 'None', 'kid': 'one'})}.{part(CLAIMS)}.{SIGNATURE}",
    "HS256 with the public key as secret": signed_by_hand({"alg": "HS256"}, PEM),
    "HS256 with the key set's entry as secret": signed_by_hand({"alg": "HS256"}, ENTRY),
    "a key of the caller's own in the header": jwt.encode(
        CLAIMS, OTHER_KEY, algorithm="RS256", headers={"kid": "one", "jwk": jwk(OTHER_KEY, "one")}
    ),
    "a key set of the caller's own in the header": jwt.encode(
        CLAIMS, OTHER_KEY, algorithm="RS256", headers={"kid": "one", "jku": "https://evil.example.org/keys.json"}
    ),
    "expired": token(**BOSS, exp=NOW - 1),
    "never expires": token(**BOSS, exp=None),
    "not yet valid": token(**BOSS, nbf=NOW + 80_000),
    "another issuer": token(**BOSS, iss="https://login.example.org.evil.example"),
    "another audience": token(**BOSS, aud="mlops-ray-test"),
    "no subject": token(groups=["bosses"], sub=None),
    "the platform as subject": token(groups=["bosses"], sub="system"),
    "somebody's key as subject": token(groups=["bosses"], sub="root"),
    "groups that are no list of texts": token(sub="mallory", groups={"bosses": True}),
    "unknown kid": token(**BOSS, kid="two"),
    "no kid": jwt.encode(CLAIMS, RSA_KEY, algorithm="RS256"),
    "a kid that is a path": jwt.encode(CLAIMS, RSA_KEY, algorithm="RS256", headers={"kid": "../../dev/null"}),
    "a huge token": token(**BOSS, padding="x" * 9_000),
    "deep claims": unchecked_text("[" * 4_000),
    "claims that are no object": unchecked_text('"bosses"'),
    "other claims below the signature": ".".join([token().split(".")[0], part(CLAIMS), token().split(".")[2]]),
    "no token": "a.b.c",
}  # fmt: skip
GIVES_NOTHING = {
    "no groups": token(sub="mallory", groups=None),
    "an empty claim": token(sub="mallory", groups=[]),
    "the name of a role": token(sub="mallory", groups=["admin", "admin:all"]),
    "a group in other letters": token(sub="mallory", groups=["Bosses", "bosses ", "boss*"]),
}
ASKED = {"name": "x", "roles": ["admin"]}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("state")
    keys = folder / "keys.json"
    keys.write_text(json.dumps({"keys": [jwk(RSA_KEY, "one")]}))
    settings: dict[str, Any] = {
        "oidc_issuer": ISSUER,
        "oidc_audience": AUDIENCE,
        "oidc_keys": str(keys),
        "oidc_groups": GROUPS,
    }
    with serving(folder, **settings) as server:
        yield server


def statuses(server: Server, credential: str) -> set[int]:
    headers = {"authorization": f"Bearer {credential}"}
    with httpx.Client(base_url=f"{server.url}/v2", headers=headers) as client:
        answers = [client.post("/keys/create", json=ASKED), client.get("/audit/events"), client.get("/keys")]
    assert all(answer.json()["error"] for answer in answers)
    return {answer.status_code for answer in answers}


def test_an_honest_token_is_admitted(server: Server) -> None:
    headers = {"authorization": f"Bearer {token(**BOSS)}"}
    assert httpx.get(f"{server.url}/v2/keys", headers=headers).status_code == 200


@pytest.mark.parametrize("what", REFUSED)
def test_a_hostile_token_is_a_401(server: Server, what: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert statuses(server, REFUSED[what]) == {401}
    assert REFUSED[what] not in caplog.text
    assert not [line for line in caplog.records if line.levelno >= logging.ERROR]


@pytest.mark.parametrize("what", GIVES_NOTHING)
def test_a_token_of_nobodys_group_gives_nothing(server: Server, what: str) -> None:
    assert statuses(server, GIVES_NOTHING[what]) == {403}


@pytest.mark.parametrize("first", ["right", "wrong"])
def test_two_credentials_in_a_request_are_none(server: Server, first: str) -> None:
    """A proxy before the server may have judged the other of them."""
    right, wrong = token(**BOSS), "mlr_" + "x" * 43
    given = (right, wrong) if first == "right" else (wrong, right)
    lines = "".join(f"Authorization: Bearer {one}\r\n" for one in given)
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(f"GET /v2/keys HTTP/1.1\r\nHost: x\r\n{lines}Connection: close\r\n\r\n".encode())
        assert connection.makefile("rb").readline().split()[1] == b"401"


@pytest.mark.parametrize(
    "header", [b"Bearer \xff\xfe", b"Bearer  a.b.c", b"bearer", b"Basic YTpi", b"Bearer " + b"A" * 60_000]
)
def test_odd_bytes_in_the_header_are_a_401(server: Server, header: bytes) -> None:
    answer = httpx.get(f"{server.url}/v2/keys", headers=[(b"authorization", header)])
    assert answer.status_code in (400, 401, 431)  # the HTTP server itself refuses what is longer than it reads


def test_a_secret_in_the_path_is_not_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """By a server of its own: it logs few refusals in a second."""
    caplog.set_level(logging.INFO)
    with serving(tmp_path) as server:
        for path in ("keys/mlr_canary", "versions/mlr_canary", "mlr_canary?key=mlr_canary"):
            assert httpx.post(f"{server.url}/v2/{path}").status_code == 401
    assert "a path that is none of ours" in caplog.text
    assert "canary" not in "".join(line.getMessage() for line in caplog.records if line.name.startswith("mlops_ray"))
