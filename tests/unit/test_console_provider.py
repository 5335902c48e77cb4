"""Signing in to the console at an OpenID provider: who comes in, and what keeps others' tokens and links out."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from mlops_ray.cli.serve import console_line
from mlops_ray.config import Settings
from mlops_ray.errors import ConfigurationError
from mlops_ray.governance.events import SYSTEM
from mlops_ray.governance.keys import active_keys, create_key
from tests.console_server import ConsoleServer, console
from tests.oidc_provider import CLIENT, SECRET, OidcProvider, free_port, key_set

BEGIN, CALLBACK = "/console/sign-in/provider", "/console/sign-in/callback"
GROUPS = {"approvers": ["approve:flights"], "ops": ["operate:all"], "ann@example.org": ["audit:all"]}


def settings_for(provider: OidcProvider, folder: Path, url: str, **more: Any) -> dict[str, Any]:
    keys = folder / "keys.json"
    keys.write_text(json.dumps(key_set()))
    said = {"oidc_issuer": provider.issuer, "oidc_audience": "api", "oidc_keys": str(keys), "oidc_groups": GROUPS}
    said |= {"oidc_client_id": CLIENT, "oidc_client_secret": "env:CONSOLE_SECRET", "console_url": url}
    return said | more


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[OidcProvider, ConsoleServer]]:
    url = f"http://127.0.0.1:{(port := free_port())}"
    provider, folder = OidcProvider(url + CALLBACK), tmp_path_factory.mktemp("state")
    provider.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONSOLE_SECRET", SECRET)
        with console(folder, port=port, **settings_for(provider, folder, url)) as server:
            yield provider, server
    provider.stop()


@pytest.fixture
def provider(both: tuple[OidcProvider, ConsoleServer]) -> OidcProvider:
    """One that tells the truth, of somebody who approves flights."""
    both[0].claims, both[0].answer, both[0].key = {"sub": "pat", "groups": ["approvers"]}, {}, "its own"
    return both[0]


@pytest.fixture
def server(both: tuple[OidcProvider, ConsoleServer]) -> ConsoleServer:
    return both[1]


def returned(browser: httpx.Client, to: str = "/console") -> httpx.Response:
    """What the console says to a browser that went to the provider and came back."""
    begun = browser.get(BEGIN, params={"next": to})
    assert begun.status_code == 303, begun.text
    return browser.get(httpx.get(begun.headers["location"]).headers["location"])


def test_who_the_provider_signed_in_acts_with_the_roles_of_their_groups(
    provider: OidcProvider, server: ConsoleServer
) -> None:
    browser = server.browser()
    assert "Sign in with 127.0.0.1" in browser.get("/console/sign-in").text
    kept = returned(browser, "/console/use-cases/flights/versions/2")
    to = browser.get(kept.headers["location"]).headers["location"]
    assert to == "/console/use-cases/flights/versions/2"
    page = browser.get(to).text
    assert "pat <small>(approve)</small>" in page
    assert "Approve version 2" in page
    assert browser.get("/console/use-cases/trains").status_code == 403


@pytest.mark.parametrize(("verified", "seen"), [(True, 200), (False, 403), ("true", 403), (None, 403)])
def test_an_e_mail_gives_roles_once_the_provider_has_verified_it(
    provider: OidcProvider, tmp_path: Path, verified: Any, seen: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provider, "redirect", "")
    url = f"http://127.0.0.1:{(port := free_port())}"
    settings = settings_for(provider, tmp_path, url, oidc_groups_claim="email")
    provider.redirect = url + CALLBACK
    provider.claims = {"sub": "ann-1", "email": "ann@example.org", "email_verified": verified}
    with console(tmp_path, port=port, **settings) as server:
        browser = server.browser()
        assert returned(browser).status_code == 303
        assert browser.get("/console/audit").status_code == seen


def test_the_cookies_are_for_the_browser_alone_and_of_no_session_before(
    provider: OidcProvider, server: ConsoleServer
) -> None:
    browser = server.browser(**{"x-forwarded-proto": "https"})
    begun = browser.get(BEGIN)
    for name in ("__Host-mlops_ray_begun=", "Secure", "HttpOnly", "SameSite=lax", "Path=/"):
        assert name in begun.headers["set-cookie"]
    mine = {"cookie": f"{begun.headers['set-cookie'].split(';')[0]}; __Host-mlops_ray=chosen-by-a-stranger"}
    answer = server.browser().get(
        httpx.get(begun.headers["location"]).headers["location"], headers=mine | {"x-forwarded-proto": "https"}
    )
    entered = [one for one in answer.headers.get_list("set-cookie") if one.startswith("__Host-mlops_ray=")]
    assert len(entered) == 1
    assert "chosen-by-a-stranger" not in entered[0]
    assert {"Secure", "HttpOnly", "SameSite=lax", "Path=/"} <= set(entered[0].split("; "))


NOW = int(time.time())  # of when this file is read, which is long before some of its tests
WRONG = {
    "expired": {"exp": NOW - 1},
    "without an end": {"exp": None},
    "not yet valid": {"nbf": NOW + 80_000},
    "issued in the future": {"iat": NOW + 80_000},
    "of another audience": {"aud": "api"},
    "of nobody": {"sub": None},
    "of another issuer": {"iss": "https://evil.example"},
    "of another attempt": {"nonce": "guessed"},
    "without a nonce": {"nonce": None},
    "with a nonce that is no text": {"nonce": ["a"]},
    "of several audiences and no client": {"aud": [CLIENT, "other"]},
    "given to another client": {"aud": [CLIENT, "other"], "azp": "other"},
    "of one with the name of somebody's key": {"sub": "bob"},
    "of the system": {"sub": "system"},
}


@pytest.mark.parametrize("claims", WRONG.values(), ids=WRONG.keys())
def test_a_token_that_is_wrong_signs_nobody_in(
    provider: OidcProvider, server: ConsoleServer, claims: dict[str, Any]
) -> None:
    provider.claims |= claims
    browser = server.browser()
    answer = returned(browser)
    assert (answer.status_code, browser.get("/console").status_code) == (403, 303), answer.text
    assert "not valid" in answer.text or "is the name of" in answer.text or "has expired" in answer.text


def test_a_token_that_another_signed_signs_nobody_in(provider: OidcProvider, server: ConsoleServer) -> None:
    provider.key = "another's"
    assert returned(browser := server.browser()).status_code == 403
    assert browser.get("/console").status_code == 303


def test_clocks_may_differ_by_a_minute(provider: OidcProvider, server: ConsoleServer) -> None:
    now = int(time.time())
    provider.claims |= {"iat": now + 30, "nbf": now + 30, "exp": now + 330}
    assert returned(server.browser()).status_code == 303


@pytest.mark.parametrize(
    "said",
    [
        {"state": "guessed"},
        {"state": ""},
        {"code": "guessed"},
        {"code": ""},
        {"iss": "https://evil.example"},
        {"code": "", "error": "access_denied"},
        {"error": "<img src=x onerror=alert(1)>"},
    ],
)
def test_what_the_provider_did_not_answer_to_us_signs_nobody_in(
    provider: OidcProvider, server: ConsoleServer, said: dict[str, str]
) -> None:
    provider.answer = said
    answer = returned(browser := server.browser())
    assert (answer.status_code, "<img" in answer.text) == (403, False)
    assert browser.get("/console").status_code == 303


def test_a_link_of_a_stranger_signs_nobody_in_as_the_stranger(provider: OidcProvider, server: ConsoleServer) -> None:
    strangers = server.browser().get(BEGIN).headers["location"]
    link = httpx.get(strangers).headers["location"]
    victim = server.browser()
    assert victim.get(link).status_code == 403
    victim.get(BEGIN)
    assert victim.get(link).status_code == 403
    assert victim.get("/console").status_code == 303


def test_an_answer_counts_once(provider: OidcProvider, server: ConsoleServer) -> None:
    browser = server.browser()
    link = httpx.get(browser.get(BEGIN).headers["location"]).headers["location"]
    assert browser.get(link).status_code == 303
    assert browser.get(link).status_code == 403


@pytest.mark.parametrize(
    "to",
    [
        "//evil.example",
        "https://evil.example",
        "/console/../..//evil",
        "javascript:alert(1)",
        f"/console/{'a' * 9_000}",
    ],
)
def test_coming_from_the_provider_leads_nowhere_else(provider: OidcProvider, server: ConsoleServer, to: str) -> None:
    browser = server.browser()
    assert browser.get(returned(browser, to).headers["location"]).headers["location"] == "/console"


def test_the_address_to_come_back_to_is_not_the_callers_to_say(provider: OidcProvider, server: ConsoleServer) -> None:
    asked = server.browser(host="evil.example").get(BEGIN).headers["location"]
    assert parse_qs(urlsplit(asked).query)["redirect_uri"] == [provider.redirect]


def test_the_secret_and_the_code_verifier_are_on_no_page(provider: OidcProvider, server: ConsoleServer) -> None:
    begun = server.browser().get(BEGIN)
    assert SECRET not in begun.text + begun.headers["location"]
    assert "code_verifier" not in begun.headers["location"]


def test_nobody_is_sent_to_a_provider_in_the_clear(
    provider: OidcProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provider, "authorize", "http://login.example.org/authorize")
    with console(tmp_path, **settings_for(provider, tmp_path, "http://127.0.0.1:1")) as server:
        answer = server.browser().get(BEGIN)
        assert (answer.status_code, "login.example.org" in answer.text) == (503, False)


def test_a_provider_that_speaks_for_another_is_not_believed(
    provider: OidcProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_for(provider, tmp_path, "http://127.0.0.1:1") | {"oidc_issuer": f"{provider.issuer}/"}
    with console(tmp_path, **settings) as server:
        assert server.browser().get(BEGIN).status_code == 503


def test_a_provider_that_is_down_leaves_keys_to_sign_in_with(tmp_path: Path) -> None:
    gone = OidcProvider("x")
    with console(tmp_path, **settings_for(gone, tmp_path, "http://127.0.0.1:1")) as server:
        answer = server.browser().get(BEGIN)
        assert (answer.status_code, "cannot be asked now" in answer.text) == (503, True)
        assert gone.issuer not in answer.text
        assert server.browser("bob").get("/console").status_code == 200


def test_a_session_of_the_provider_ends_within_the_hour(
    provider: OidcProvider, server: ConsoleServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser = server.browser()
    returned(browser)
    assert browser.get("/console").status_code == 200
    monkeypatch.setattr(server.guard, "_clock", lambda: time.time() + 3_601)
    assert browser.get("/console").status_code == 303


def test_a_name_that_became_somebodys_key_is_signed_in_no_more(provider: OidcProvider, server: ConsoleServer) -> None:
    provider.claims |= {"sub": "later"}
    assert returned(server.browser()).status_code == 303
    create_key(server.store, SYSTEM, "later", ["audit"])
    server.guard.keys = active_keys(server.store)
    assert returned(server.browser()).status_code == 403


def test_who_starts_a_server_is_told_where_the_console_is_and_how_to_sign_in(tmp_path: Path) -> None:
    plain = {"state": str(tmp_path), "data": str(tmp_path)}
    assert console_line(Settings(**plain)).endswith(
        "http://127.0.0.1:8000/console (pages for people; sign in with the key)"
    )
    (tmp_path / "development_approver_key").write_text("mlr_x")
    assert f"to approve with the one in {tmp_path}/development_approver_key" in console_line(Settings(**plain))
    oidc = {"oidc_issuer": "https://i", "oidc_audience": "a", "oidc_keys": "/k", "oidc_client_id": "c"}
    told = console_line(Settings(**plain, **oidc, console_url="https://ml.example.org/"))
    assert "https://ml.example.org/console (pages for people; sign in at your provider" in told


@pytest.mark.parametrize(
    "wrong",
    [
        {"console_url": ""},
        {"oidc_client_id": ""},
        {"oidc_client_secret": "plain"},
        {"console_url": "http://ml.example"},
        {"oidc_issuer": "", "oidc_audience": "", "oidc_keys": ""},
    ],
)
def test_settings_that_would_give_the_answer_to_others_are_refused(tmp_path: Path, wrong: dict[str, str]) -> None:
    good = {"oidc_issuer": "https://i", "oidc_audience": "a", "oidc_keys": "/k", "oidc_client_id": "c"}
    good |= {"console_url": "https://ml.example.org", "oidc_client_secret": "env:S"}
    Settings(state=str(tmp_path), data=str(tmp_path), **good)
    with pytest.raises((ConfigurationError, ValueError)):
        Settings(state=str(tmp_path), data=str(tmp_path), **good | wrong)
