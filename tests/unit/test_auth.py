"""Who gets in: every route asks for a credential, and each kind of wrong one is refused with 401, 403 or 429."""

import json
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops_ray.config import LEAST_REQUESTS_PER_S, Settings
from mlops_ray.errors import ConfigurationError
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.development_keys import development_key
from mlops_ray.governance.events import SYSTEM
from mlops_ray.governance.keys import active_keys, create_key, hash_of, revoke_key, rotate_key
from mlops_ray.governance.principals import ROLES, Principal, person_of_subject
from mlops_ray.serving import auth, key_watch
from mlops_ray.serving.auth import Bucket, Guard, Tokens, is_public, read_key_set, tokens_of
from mlops_ray.serving.credentials import with_persons
from mlops_ray.serving.http import HttpError
from mlops_ray.serving.key_watch import KeyWatch
from mlops_ray.testing.example_endpoint import ExampleEndpoint, example_endpoint
from tests.unit.test_client import Trickle
from tests.unit.test_endpoint import send

SECRET = "mlr_" + "a" * 43
ISSUER, AUDIENCE = "https://login.example.org", "mlops-ray"
RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
GROUPS = {
    "callers": ("predict:all",),
    "ML Labels": ("label:flights",),
    "approvers": ("approve:flights", "operate:trains"),
    "bosses": ("admin:all",),
}
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
    slow = guard(requests_per_s=LEAST_REQUESTS_PER_S)
    slow.replicas = 1_000
    slow.admit(bearer(SECRET), "predict")
    assert int(refused(429, slow, bearer(SECRET)).headers["retry-after"]) > 86_400


def token(key: Any = RSA_KEY, kid: str = "one", algorithm: str = "RS256", **claims: Any) -> str:
    now = int(time.time())
    usual = {"iss": ISSUER, "aud": AUDIENCE, "sub": "ann", "exp": now + 60, "groups": ["callers"]}
    given = usual | claims
    given = {name: value for name, value in given.items() if value is not None}
    return jwt.encode(given, key, algorithm=algorithm, headers={"kid": kid})


def unchecked(**claims: Any) -> str:
    """A token with a right signature over what no honest library would sign."""
    now = int(time.time())
    given = {"iss": ISSUER, "aud": AUDIENCE, "exp": now + 60, "groups": ["callers"], **claims}
    return unchecked_text(json.dumps(given))


def unchecked_text(claims: str) -> str:
    return jwt.api_jws.encode(claims.encode(), RSA_KEY, algorithm="RS256", headers={"kid": "one"})


def jwk(key: Any, kid: str, **more: Any) -> dict[str, Any]:
    return {**json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key())), "kid": kid, "alg": "RS256", **more}


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
        oidc_keys=str(folder / "keys.json"), oidc_groups=GROUPS,
    )  # fmt: skip


@pytest.fixture
def tokens(oidc: Settings) -> Guard:
    return Guard("flights", {}, tokens_of(oidc))


def test_a_token_may_what_the_settings_grant_its_groups_and_each_role_only_there(tokens: Guard) -> None:
    assert tokens.admit(bearer(token()), "predict").name == "ann"
    both = token(EC_KEY, "two", "ES256", groups=["ML Labels", "callers", "unknown"])
    assert tokens.admit(bearer(both), "label").roles == ("predict", "label")
    refused(403, tokens, bearer(token()), "operate")
    assert tokens.admit(bearer(token(groups="ML Labels")), "label").roles == ("label",)
    refused(403, tokens, bearer(token(groups="domain approvers")), "approve")  # is one group, and none of ours
    approves = tokens.admit(bearer(token(groups="approvers")), "approve")
    refused(403, tokens, bearer(token(groups="approvers")), "operate")
    now = datetime.now(UTC)
    assert not approves.may("approve", "trains", now)
    assert approves.may("operate", "trains", now)
    assert not approves.may("approve", None, now)
    assert (approves.actor("flights").roles, approves.actor("trains").roles) == (("approve",), ("operate",))
    assert tokens.admit(bearer(token(groups=["bosses"])), "operate").may("admin", None, now)


def test_spaces_separate_groups_only_in_a_scope(oidc: Settings) -> None:
    scoped = Guard("flights", {}, tokens_of(oidc.model_copy(update={"oidc_groups_claim": "scope"})))
    assert "approve" in scoped.admit(bearer(token(scope="openid approvers")), "approve").roles


@pytest.mark.parametrize(
    "claim", [None, [], "", ["admin"], ["admin:all"], "approve:flights", ["Callers"], "*", ["all"]]
)
def test_a_group_that_no_setting_maps_or_none_may_nothing(tokens: Guard, claim: Any) -> None:
    for role in ROLES:
        refused(403, tokens, bearer(token(groups=claim, roles=list(ROLES), use_cases="all")), role)


@pytest.mark.parametrize("grant", ["approve", "approve:", ":flights", "root:all", "approve: flights", "Admin:all", ""])
def test_a_grant_that_is_no_role_with_a_use_case_is_named(oidc: Settings, grant: str) -> None:
    with pytest.raises(ConfigurationError, match="oidc_groups: 'ops' is granted"):
        tokens_of(oidc.model_copy(update={"oidc_groups": {"ops": (grant,)}}))


def test_a_token_counts_at_once_though_the_provider_s_clock_is_ahead_and_ends_when_it_says(tokens: Guard) -> None:
    now = int(time.time())
    assert tokens.admit(bearer(token(iat=now + 30, nbf=now + 30)), "predict").name == "ann"
    refused(401, tokens, bearer(token(nbf=now + 90)))
    refused(401, tokens, bearer(token(iat=now + 90)))
    refused(401, tokens, bearer(token(exp=now - 1)))


@pytest.mark.parametrize(
    "wrong",
    [
        token(iss="https://evil.example.org"),
        token(aud="other"),
        token(exp=int(time.time()) - 5),
        token(exp=None),
        token(sub=None),
        token(nbf=int(time.time()) + 80_000),
        token(OTHER_KEY),
        token(kid="unknown"),
        token("secret-secret-secret-secret-secret", "three", "HS256"),
        jwt.encode({"iss": ISSUER, "aud": AUDIENCE, "sub": "ann"}, None, algorithm="none", headers={"kid": "one"}),
        token()[:-8] + "AAAAAAAA",
        *(token(groups=value) for value in (5, True, {"a": "b"}, [5], [["a"]])),
        *(token(exp=value) for value in (10**12, -1, True, 1e400, [], {}, f"{int(time.time()) + 60}")),
        *(token(**{name: value}) for name in ("nbf", "iat") for value in ("0", [], 10**12, True)),
        *(
            unchecked(sub=value)
            for value in ("", " ", " ann", "a\nb", "a\x1b[2J", "a\u202eb", "x" * 256, 5, None, ["ann"])
        ),
        unchecked_text("[" * 3000),
        unchecked_text('{"sub":' * 900),
    ],
)
def test_a_token_with_anything_wrong_is_a_401(tokens: Guard, wrong: str) -> None:
    refused(401, tokens, bearer(wrong))


CLAIMS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
NAMES = st.sampled_from(["iss", "aud", "sub", "exp", "nbf", "iat", "groups", "jti", "x"])


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(NAMES, CLAIMS, max_size=4))
def test_whatever_a_signed_token_claims_it_is_judged_and_nothing_is_taken_for_more(
    oidc: Settings, claims: dict[str, Any]
) -> None:
    try:
        principal = Tokens(oidc, read_key_set(oidc)).principal(unchecked(**{"sub": "ann", **claims}).encode())
    except HttpError as error:
        assert error.status == 401  # noqa: PT017 - most are refused, and some are not
        return
    assert principal.name.isprintable()
    named = claims.get("groups", ["callers"]) or []
    groups = set(named.split() if isinstance(named, str) else named) & set(GROUPS)
    assert {f"{role}:{where}" for role, where in principal.granted or ()} == {
        grant for group in groups for grant in GROUPS[group]
    }


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300) | st.text("ey.JhbGci0=_-", max_size=200).map(str.encode))
def test_no_bytes_in_the_place_of_a_token_bring_the_guard_down(oidc: Settings, given: bytes) -> None:
    with pytest.raises(HttpError) as error:
        Guard("flights", {}, tokens_of(oidc)).admit({b"authorization": b"Bearer " + given}, "predict")
    assert error.value.status == 401


@pytest.mark.parametrize("name", ["system", "development", "development_approver", "ci"])
def test_a_token_with_the_name_of_a_key_or_of_the_platform_is_a_401(tokens: Guard, name: str) -> None:
    tokens.keys = {"hash": Principal("1", "ci", ("predict",))}
    assert "name of an API key" in refused(401, tokens, bearer(token(sub=name))).error
    tokens.keys = {}
    assert (name == "ci") is (tokens.admit(bearer(token(sub="ci")), "predict").name == name)


def test_a_development_key_never_counts_where_others_reach_the_server(store: ControlStore, tmp_path: Path) -> None:
    secret = development_key(store, Settings(state=str(tmp_path), data=str(tmp_path)))
    public = Guard("flights", active_keys(store), public=True)
    assert "development key" in refused(401, public, bearer(secret)).error
    alone = Guard("flights", active_keys(store))
    assert alone.admit(bearer(secret), "predict").development
    other = create_key(store, SYSTEM, "ci", ["predict"]).secret
    public.keys = alone.keys = active_keys(store)
    assert public.admit(bearer(other), "predict").name == "ci"
    refused(401, alone, bearer(secret))
    here, everywhere = (Settings(state="/s", data="/d", http_host=host) for host in ("127.0.0.1", "0.0.0.0"))
    assert not is_public(here, "127.0.0.1")
    assert is_public(everywhere, "127.0.0.1")
    assert is_public(here, "10.0.0.5")


def test_a_key_set_that_comes_a_byte_at_a_time_is_given_up(oidc: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "KEY_SET_WITHIN_S", 0.5)
    with closing(Trickle("body")) as server, pytest.raises(ConfigurationError, match="no readable key set"):
        read_key_set(oidc.model_copy(update={"oidc_keys": server.url}))


def test_keys_that_may_not_sign_do_not_count(oidc: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    weak = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    listed = [jwk(weak, "weak"), jwk(OTHER_KEY, "enc", use="enc"), jwk(OTHER_KEY, "ops", key_ops=["encrypt"])]
    listed += [5, {}, {"kty": "RSA", "n": 5, "e": []}, jwk(OTHER_KEY, "odd", key_ops=5)]
    (tmp_path / "keys.json").write_text(json.dumps({"keys": [*listed, jwk(RSA_KEY, "one", use="sig")]}))
    tokens = Guard("flights", {}, tokens_of(oidc.model_copy(update={"oidc_keys": str(tmp_path / "keys.json")})))
    tokens.admit(bearer(token()), "predict")
    for key, kid in ((weak, "weak"), (OTHER_KEY, "enc"), (OTHER_KEY, "ops"), (OTHER_KEY, "odd")):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyJWT warns of signing with the weak key
            signed = token(key, kid)
        refused(401, tokens, bearer(signed))
    assert "1024 bits" in caplog.text
    (tmp_path / "keys.json").write_text(json.dumps({"keys": listed}))
    with pytest.raises(ConfigurationError, match="no key that may sign"):
        tokens_of(oidc.model_copy(update={"oidc_keys": str(tmp_path / "keys.json")}))


@pytest.fixture
def watched(oidc: Settings, store: ControlStore, tmp_path: Path) -> Iterator[tuple[Path, KeyWatch, Guard]]:
    file = tmp_path / "keys.json"
    file.write_text(json.dumps({"keys": [jwk(RSA_KEY, "one"), jwk(OTHER_KEY, "other")]}))
    mine = oidc.model_copy(update={"oidc_keys": str(file)})
    guard = Guard("flights", {}, tokens_of(mine))
    watch = KeyWatch(store, mine, guard, 0.01, 0.01)
    watch.start()
    yield file, watch, guard
    watch.stop()


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_admitted(guard: Guard, credential: str) -> bool:
    try:
        return bool(guard.admit(bearer(credential), "predict"))
    except HttpError:
        return False


def test_a_key_that_was_taken_out_of_the_key_set_stops_counting_and_an_unreadable_set_changes_nothing(
    watched: tuple[Path, KeyWatch, Guard],
) -> None:
    file, watch, guard = watched
    mine, others = token(), token(OTHER_KEY, "other")
    assert is_admitted(guard, mine)
    assert is_admitted(guard, others)  # and is remembered as verified
    file.write_text(json.dumps({"keys": [jwk(RSA_KEY, "one")]}))
    until(lambda: not is_admitted(guard, others))
    file.write_text("half of a f")
    time.sleep(0.1)
    assert is_admitted(guard, mine)
    file.write_text('{"keys": []}')
    until(lambda: not is_admitted(guard, mine))
    watch.expect_alive()


def test_an_error_of_any_kind_does_not_end_the_watch_over_keys(
    watched: tuple[Path, KeyWatch, Guard], store: ControlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, watch, guard = watched
    raised: list[Exception] = []

    def fails(store: ControlStore) -> Any:
        raised.append(RuntimeError("a bug"))
        raise raised[-1]

    with monkeypatch.context() as patched:
        patched.setattr(key_watch, "active_keys", fails)
        until(lambda: len(raised) > 2)
    made = create_key(store, SYSTEM, "ann", ["predict"])
    until(lambda: is_admitted(guard, made.secret))
    watch.expect_alive()
    watch.stop()
    with pytest.raises(RuntimeError, match="has ended"):
        until(lambda: watch.expect_alive() is not None)


def test_callers_by_token_have_a_rate_each(oidc: Settings) -> None:
    limited = Guard("flights", {}, tokens_of(oidc.model_copy(update={"oidc_requests_per_s": 2})))
    for sub in ("ann", "ben"):
        for _ in range(2):
            limited.admit(bearer(token(sub=sub)), "predict")
        refused(429, limited, bearer(token(sub=sub)))


def test_a_token_that_was_verified_is_not_used_beyond_its_expiry(tokens: Guard) -> None:
    ends_at = int(time.time()) + 3
    short = token(exp=ends_at)
    tokens.admit(bearer(short), "predict")
    time.sleep(ends_at + 0.1 - time.time())
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


def test_a_person_is_the_same_with_a_key_and_with_a_token(tokens: Guard, store: ControlStore) -> None:
    person = person_of_subject(ISSUER, "ann")
    made = create_key(store, SYSTEM, "ann", ["predict"], person=person)
    second = create_key(store, SYSTEM, "ann-ci", ["predict"], person="ann")
    tokens.keys = active_keys(store)
    by = [tokens.admit(bearer(secret), "predict").actor("flights") for secret in (made.secret, second.secret, token())]
    assert {actor.id for actor in by} == {person}
    assert "name of an API key" in refused(401, tokens, bearer(token(sub="ann-ci"))).error


def test_a_replaced_key_counts_until_its_end_also_where_nobody_looks_again(store: ControlStore) -> None:
    old = create_key(store, SYSTEM, "ann", ["predict"])
    new = rotate_key(store, SYSTEM, "ann", datetime.now(UTC) + timedelta(seconds=1), "yearly")
    guard = Guard("flights", active_keys(store))
    by = [guard.admit(bearer(made.secret), "predict").actor("flights") for made in (old, new)]
    assert by[0] == by[1]
    time.sleep(1.1)
    assert "expired" in refused(401, guard, bearer(old.secret)).error
    guard.keys = active_keys(store)
    refused(401, guard, bearer(old.secret))
    assert guard.admit(bearer(new.secret), "predict").name == "ann"


def test_who_had_a_key_before_there_were_tokens_is_linked_by_a_setting(oidc: Settings, store: ControlStore) -> None:
    made = create_key(store, SYSTEM, "ann", ["predict"])
    linked = oidc.model_copy(update={"oidc_people": {"ann": made.principal.person}})
    guard = Guard("flights", active_keys(store), tokens_of(linked))
    by = [guard.admit(bearer(secret), "predict").actor("flights") for secret in (made.secret, token())]
    assert by[0].id == by[1].id == made.principal.id
    other = Guard("flights", active_keys(store), tokens_of(oidc))
    assert "of another" in refused(401, other, bearer(token())).error


def test_a_sub_that_differs_from_anothers_name_in_its_letters_alone_is_refused(
    oidc: Settings, store: ControlStore
) -> None:
    create_key(store, SYSTEM, "Ann", ["predict"])
    guard = Guard("flights", active_keys(store), tokens_of(oidc))
    assert "of another" in refused(401, guard, bearer(token())).error


def test_a_linked_person_may_be_named_by_any_key_of_theirs_and_must_be_somebody(
    oidc: Settings, store: ControlStore
) -> None:
    first = create_key(store, SYSTEM, "ann", ["predict"]).principal
    second = create_key(store, SYSTEM, "ann_ci", ["predict"], person="ann").principal
    for who in ("ann", "ann_ci", first.id, second.id):
        settings = with_persons(oidc.model_copy(update={"oidc_people": {"24828": who}}), store)
        assert settings.oidc_people == {"24828": first.person}
    with pytest.raises(ConfigurationError, match="oidc_people: There is no person 'anne'"):
        with_persons(oidc.model_copy(update={"oidc_people": {"24828": "anne"}}), store)
