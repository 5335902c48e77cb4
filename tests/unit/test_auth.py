"""Who gets in: every route asks for a credential, and each kind of wrong one is refused with 401, 403 or 429."""

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from mlops_ray.config import Settings
from mlops_ray.errors import ConfigurationError
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.events import SYSTEM
from mlops_ray.governance.principals import Principal, active_keys, create_key, hash_of, revoke_key
from mlops_ray.serving.auth import Bucket, Guard, Tokens, read_key_set, tokens_of
from mlops_ray.serving.http import HttpError
from mlops_ray.testing.example_endpoint import ExampleEndpoint, example_endpoint
from tests.unit.test_endpoint import send

SECRET = "mlr_" + "a" * 43
ISSUER, AUDIENCE = "https://login.example.org", "mlops-ray"
RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())


def bearer(token: str) -> dict[bytes, bytes]:
    return {b"authorization": f"Bearer {token}".encode()}


def guard(**principal: Any) -> Guard:
    fields = {"id": "1", "name": "ann", "roles": ("predict",), **principal}
    return Guard("flights", {hash_of(SECRET): Principal(**fields)})


def refused(status: int, guard: Guard, headers: dict[bytes, bytes], role: Any = "predict") -> HttpError:
    with pytest.raises(HttpError) as error:
        guard.admit(headers, role)
    assert error.value.status == status
    return error.value


def test_the_right_key_in_the_right_role_is_admitted() -> None:
    assert guard().admit(bearer(SECRET), "predict").name == "ann"
    assert guard(roles=("admin",)).admit(bearer(SECRET), "operate").name == "ann"
    assert guard(use_cases=("flights",)).admit(bearer(SECRET), None).name == "ann"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        bearer(""),
        bearer("mlr_" + "b" * 43),
        bearer(SECRET + "a"),
        bearer(SECRET[:-1]),
        bearer("x" * 100_000),
        {b"authorization": SECRET.encode()},
        {b"authorization": b"Basic " + SECRET.encode()},
        {b"authorization": b"Bearer \xff\xfe"},
        bearer("a.b.c"),
    ],
)
def test_no_or_a_wrong_credential_is_a_401(headers: dict[bytes, bytes]) -> None:
    assert refused(401, guard(), headers).headers["www-authenticate"] == "Bearer"


def test_an_expired_key_is_a_401_that_says_so() -> None:
    past = datetime.now(UTC) - timedelta(seconds=1)
    assert "expired" in refused(401, guard(expires_at=past), bearer(SECRET)).error


def test_the_wrong_role_or_use_case_is_a_403() -> None:
    assert "'operate'" in refused(403, guard(), bearer(SECRET), "operate").error
    refused(403, guard(use_cases=("other",)), bearer(SECRET))


def test_a_revoked_key_is_unknown_at_the_next_look(store: ControlStore) -> None:
    made = create_key(store, SYSTEM, "ann", ["predict"])
    guard = Guard("flights", active_keys(store))
    guard.admit(bearer(made.secret), "predict")
    revoke_key(store, SYSTEM, "ann", "left")
    guard.keys = active_keys(store)
    refused(401, guard, bearer(made.secret))


def test_a_rate_is_kept_and_shared_between_replicas() -> None:
    limited = guard(requests_per_s=10)
    limited.replicas = 2
    for _ in range(5):
        limited.admit(bearer(SECRET), "predict")
    assert int(refused(429, limited, bearer(SECRET)).headers["retry-after"]) >= 1
    bucket, now = Bucket(), 100.0
    taken = sum(bucket.take(5, now + tick / 100) == 0 for tick in range(1000))
    assert 50 <= taken <= 55
    bucket.take(5, now + 10)
    assert 0 < bucket.take(5, now + 10) <= 0.2


def token(key: Any = RSA_KEY, kid: str = "one", algorithm: str = "RS256", **claims: Any) -> str:
    now = int(time.time())
    given = {"iss": ISSUER, "aud": AUDIENCE, "sub": "ann", "exp": now + 60, "roles": ["predict"], **claims}
    given = {name: value for name, value in given.items() if value is not None}
    return jwt.encode(given, key, algorithm=algorithm, headers={"kid": kid})


@pytest.fixture(scope="module")
def oidc(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("oidc")
    keys = [
        {**json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(RSA_KEY.public_key())), "kid": "one", "alg": "RS256"},
        {**json.loads(jwt.algorithms.ECAlgorithm.to_jwk(EC_KEY.public_key())), "kid": "two", "alg": "ES256"},
        {"kty": "oct", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3JldA", "kid": "three", "alg": "HS256"},
    ]
    (folder / "keys.json").write_text(json.dumps({"keys": keys}))
    return Settings(
        state=str(folder), data=str(folder), oidc_issuer=ISSUER, oidc_audience=AUDIENCE,
        oidc_keys=str(folder / "keys.json"),
    )  # fmt: skip


@pytest.fixture
def tokens(oidc: Settings) -> Guard:
    return Guard("flights", {}, tokens_of(oidc))


def test_a_valid_token_carries_its_roles_and_use_cases(tokens: Guard) -> None:
    assert tokens.admit(bearer(token()), "predict").name == "ann"
    assert tokens.admit(bearer(token(EC_KEY, "two", "ES256", roles="label predict")), "label").roles == (
        "predict",
        "label",
    )
    refused(403, tokens, bearer(token()), "operate")
    refused(403, tokens, bearer(token(use_cases=["other"])))
    refused(403, tokens, bearer(token(roles=["root"])))
    refused(403, tokens, bearer(token(roles=None)))


@pytest.mark.parametrize(
    "wrong",
    [
        token(iss="https://evil.example.org"),
        token(aud="other"),
        token(exp=int(time.time()) - 5),
        token(exp=None),
        token(sub=None),
        token(nbf=int(time.time()) + 1000),
        token(OTHER_KEY),
        token(kid="unknown"),
        token("secret-secret-secret-secret-secret", "three", "HS256"),
        jwt.encode({"iss": ISSUER, "aud": AUDIENCE, "sub": "ann"}, None, algorithm="none", headers={"kid": "one"}),
        token()[:-8] + "AAAAAAAA",
    ],
)
def test_a_token_with_anything_wrong_is_a_401(tokens: Guard, wrong: str) -> None:
    refused(401, tokens, bearer(wrong))


def test_a_token_that_was_verified_is_not_used_beyond_its_expiry(tokens: Guard) -> None:
    short = token(exp=int(time.time()) + 1)
    tokens.admit(bearer(short), "predict")
    time.sleep(1.1)
    refused(401, tokens, bearer(short))


def test_a_key_set_that_cannot_be_read_is_named(oidc: Settings, tmp_path: Path) -> None:
    for place in (str(tmp_path / "nothing.json"), "http://127.0.0.1:1/keys"):
        with pytest.raises(ConfigurationError, match=place):
            read_key_set(oidc.model_copy(update={"oidc_keys": place}))
    assert isinstance(tokens_of(oidc), Tokens)


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ExampleEndpoint]:
    with example_endpoint(tmp_path_factory.mktemp("state")) as example:
        create_key(example.store, SYSTEM, "labels", ["label"])
        yield example


def every_route(example: ExampleEndpoint) -> list[tuple[str, str]]:
    """From the router's table, and from the OpenAPI document: they must name the same."""
    table = {(method, path) for path, methods in example.endpoint.app.routes.items() for method in methods}
    paths = example.follower.traffic.champion.openapi["paths"]
    prefix = "/v2/models/departures"
    documented = {(method.upper(), path.removeprefix(prefix)) for path, ways in paths.items() for method in ways}
    assert documented == table
    return sorted(table)


def test_every_route_refuses_no_wrong_expired_and_wrong_role_credentials(example: ExampleEndpoint) -> None:
    only_labels = create_key(example.store, SYSTEM, "other", ["label"]).secret
    only_asks = create_key(example.store, SYSTEM, "asker", ["predict"]).secret
    soon = datetime.now(UTC) + timedelta(milliseconds=100)
    expired = create_key(example.store, SYSTEM, "short", ["admin"], expires_at=soon).secret
    elsewhere = create_key(example.store, SYSTEM, "elsewhere", ["admin"], use_cases=["other"]).secret
    time.sleep(0.2)
    example.follower.follow_once()
    for method, path in every_route(example):
        role = example.endpoint.app.routes[path][method].role
        for credential in ("", "Bearer", "Bearer mlr_unknown", "Bearer a.b.c", f"Bearer {expired}"):
            response = send(example, method, path, headers={"authorization": credential})
            assert response.status_code == 401, (method, path, credential, response.text)
        for credential in (only_asks if role == "label" else only_labels, elsewhere):
            response = send(example, method, path, headers={"authorization": f"Bearer {credential}"})
            assert (response.status_code == 403) == (role is not None), (method, path, response.text)


def test_who_is_not_known_learns_no_paths(example: ExampleEndpoint) -> None:
    for method, path in (("GET", "/nothing"), ("DELETE", "/predict"), ("PUT", "")):
        assert send(example, method, path, headers={"authorization": ""}).status_code == 401
    assert send(example, "GET", "/nothing").status_code == 404
    assert send(example, "DELETE", "/predict").status_code == 405
