"""What holds for every page and every form of the console, by its own table of routes (OWASP's usual list)."""

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from starlette.routing import Route

from tests.console_routes import EVERYBODY, FORMS, OPEN, PAGES, Form, fill_all, written
from tests.console_server import HOSTILE, ConsoleServer, console, whole
from tests.unit.test_console import post, token_on
from tests.unit.test_drift_page import NAME

POLICY = {
    "default-src": "'none'",
    "script-src": "'self'",
    "form-action": "'self'",
    "frame-ancestors": "'none'",
    "base-uri": "'none'",
}
HEADERS = {
    "x-frame-options": "DENY",
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
# Charts bring their style along, which can run and send nothing.
WITH_STYLE = {"/console/use-cases/{use_case}/drift", "/console/use-cases/{use_case}/data/{digest}/profile/{source}"}
ELSEWHERE = [
    "//evil.example", "https://evil.example", "/\\evil.example", "/console/../..//evil", "javascript:alert(1)",
    "/console//evil.example", "/consoleevil", "/console\r\nset-cookie: a=b", "/console?next=//evil", "/console/%2f", "",
]  # fmt: skip


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ConsoleServer, dict[str, str]]]:
    """One for all that is refused, or only read: nothing in it may change."""
    with console(tmp_path_factory.mktemp("state")) as server:
        known = fill_all(server)
        before = written(server)
        yield server, known
        assert written(server) == before


@pytest.fixture
def server(filled: tuple[ConsoleServer, dict[str, str]]) -> ConsoleServer:
    return filled[0]


@pytest.fixture
def known(filled: tuple[ConsoleServer, dict[str, str]]) -> dict[str, str]:
    return filled[1]


def fields_of(form: Form, known: dict[str, str]) -> dict[str, str]:
    return {name: value.format(**known) for name, value in form.fields.items()}


def expect_safe(answer: httpx.Response, styled: bool = False) -> None:
    """In nobody's frame, nothing of elsewhere, kept nowhere; no script or style within; a cookie for browsers alone."""
    (header,) = answer.headers.get_list("content-security-policy")
    policy = dict(part.split(" ", 1) for part in header.split("; "))
    assert policy["style-src"] == ("'self' 'unsafe-inline'" if styled else "'self'")
    assert {name: policy[name] for name in POLICY} == POLICY
    assert {name: answer.headers[name] for name in HEADERS} == HEADERS
    assert answer.headers["cache-control"] == "no-store"
    assert not re.search(r"<script(?! src=)|<[^>]*\son\w+=|(href|src|action)=\"javascript:", answer.text)
    assert styled or not re.search(r"<style|\sstyle=", answer.text)
    for cookie in answer.headers.get_list("set-cookie"):
        assert {"httponly", "samesite=lax"} <= set(cookie.lower().split("; ")), cookie
    where = answer.headers.get("location", "/console")
    assert re.match(r"/console(?![^/?#])", where), where


def test_every_page_and_form_stands_in_the_table(server: ConsoleServer) -> None:
    there = set()
    for route in server.site.pages.routes:
        assert isinstance(route, Route)
        there |= {(method, route.path) for method in (route.methods or set()) - {"HEAD"}}
    assert there == {("GET", path) for path in PAGES} | {("POST", path) for path in FORMS} | OPEN


@pytest.mark.parametrize("route", PAGES)
def test_a_page_is_seen_by_who_may_and_safe_for_who_looks(
    server: ConsoleServer, known: dict[str, str], route: str
) -> None:
    page = PAGES[route]
    for who in sorted(EVERYBODY):
        answer = server.browser(who).get(page.path.format(**known))
        assert (answer.status_code == 200) == (who in page.may), (who, answer.text)
        assert answer.status_code in (200, 400, 403), who
        expect_safe(answer, route in WITH_STYLE and who in page.may)


@pytest.mark.parametrize("route", PAGES)
@pytest.mark.parametrize("cookie", [None, "chosen-by-a-stranger"])
def test_a_page_is_for_who_is_signed_in_who_is_led_back_to_it(
    server: ConsoleServer, known: dict[str, str], route: str, cookie: str | None
) -> None:
    path, stranger = PAGES[route].path.format(**known), server.browser()
    if cookie:
        stranger.cookies.set("mlops_ray", cookie)
    answer = stranger.get(path)
    assert (answer.status_code, "flights" in answer.text) == (303, False)
    expect_safe(answer)
    form = stranger.get(answer.headers["location"])
    expect_safe(form)
    (to,) = parse_qs(urlsplit(answer.headers["location"]).query)["next"]
    assert to == path
    kept = stranger.post("/console/sign-in", data={"key": server.keys["root"], "next": to})
    expect_safe(kept)
    assert stranger.get(kept.headers["location"]).headers["location"] == path


@pytest.mark.parametrize("route", PAGES)
def test_no_parameter_of_a_page_leads_elsewhere(server: ConsoleServer, known: dict[str, str], route: str) -> None:
    path, stranger, root = PAGES[route].path.format(**known).partition("?")[0], server.browser(), server.browser("root")
    for to in ELSEWHERE:
        asked = dict.fromkeys(("next", "after", "from", "url", "request", "use_case", "version"), to)
        answer = stranger.get(path, params=asked)
        assert answer.headers["location"].startswith("/console/sign-in?next=%2Fconsole")
        seen = root.get(path, params=asked)
        assert seen.status_code in (200, 400, 404), to
        assert not re.search(r'(href|action|src)="(?!/console|\?|#)', seen.text), to
        expect_safe(seen, "unsafe-inline" in seen.headers["content-security-policy"])


@pytest.mark.parametrize(
    ("token", "headers", "status"),
    [
        (None, {}, 403),
        ("guessed", {}, 403),
        ("\u0000", {}, 403),
        ("another's", {}, 403),
        ("own", {"sec-fetch-site": "cross-site"}, 403),
        ("own", {"sec-fetch-site": "same-site"}, 403),
        ("own", {"origin": "https://evil.example"}, 403),
        ("own", {"origin": "null"}, 403),
        ("own", {"content-type": "text/plain"}, 415),
        ("own", {"content-type": "application/json"}, 415),
        ("own", {"content-type": "multipart/form-data; boundary=x"}, 415),
    ],
)
@pytest.mark.parametrize("route", FORMS)
def test_what_another_site_sends_is_not_done(
    server: ConsoleServer, known: dict[str, str], route: str, token: str | None, headers: dict[str, str], status: int
) -> None:
    form, browser = FORMS[route], server.browser("root")
    tokens = {"own": lambda: token_on(browser), "another's": lambda: token_on(server.browser("root"))}
    fields = fields_of(form, known) | {"else": "no field"}  # without any a browser would send no form
    if token is not None:
        fields["form_token"] = tokens.get(token, lambda: token)()
    before = written(server)
    answer = browser.post(form.path, data=fields, headers=headers)
    assert answer.status_code == status, answer.text
    expect_safe(answer)
    assert written(server) == before
    assert "Nobody has had the chain verified" in browser.get("/console/audit").text  # and is signed in still


@pytest.mark.parametrize("route", FORMS)
def test_a_form_is_done_for_nobody_who_is_not_signed_in_and_is_no_page(
    server: ConsoleServer, known: dict[str, str], route: str
) -> None:
    form, stranger = FORMS[route], server.browser()
    for cookie in ("", "chosen-by-a-stranger"):
        stranger.cookies.set("mlops_ray", cookie)
        answer = stranger.post(form.path, data=fields_of(form, known) | {"form_token": ""})
        assert answer.status_code == 401
        expect_safe(answer)
    asked = server.browser("root").get(form.path, params=fields_of(form, known))
    assert asked.status_code in (404, 405)
    expect_safe(asked)


@pytest.mark.parametrize("route", FORMS)
def test_what_a_role_may_not_do_the_server_refuses(server: ConsoleServer, known: dict[str, str], route: str) -> None:
    form, before = FORMS[route], written(server)
    for who in sorted(EVERYBODY - form.may):
        answer = post(server.browser(who), form.path, **fields_of(form, known))
        assert answer.status_code == 403, (who, answer.text)
        expect_safe(answer)
    assert written(server) == before


@pytest.mark.parametrize("hostile", ["", HOSTILE], ids=["plain", "hostile"])
def test_every_form_is_done_for_who_may_and_pages_hold_texts_as_texts(tmp_path: Any, hostile: str) -> None:
    """As they stand in the table the forms do something, so the refusals above are what keeps them from it."""
    with console(tmp_path, hostile) as server:
        known = fill_all(server, hostile)
        root, answers = server.browser("root"), list[httpx.Response]()
        for route, page in PAGES.items():
            answers.append(whole(root, page.path.format(**known)))
            assert answers[-1].status_code == 200, route
        for form in FORMS.values():
            before, said = written(server), fields_of(form, known)
            if hostile and said:
                answers.append(post(root, form.path, **dict.fromkeys([*said, "next"], HOSTILE)))
            told = {"reason": HOSTILE} if hostile and "reason" in said else {}
            answers.append(post(root, form.path, **said | told))
            assert answers[-1].status_code in (200, 303), answers[-1].text
            expect_safe(answers[-1])
            assert written(server) != before or form.path.endswith(("/sign-out", "/verification")), form.path
            if form.path.endswith("/verification"):
                assert "Nobody has had the chain verified" not in root.get("/console/audit").text
        assert root.get("/console").status_code == 303
        root = server.browser("root")
        answers += [whole(root, page.path.format(**known)) for page in PAGES.values()]
        for path in ("/console/audit?subject=", "/console/use-cases/", "/console/keys?after="):
            answers.append(root.get(path + HOSTILE))
        answers.append(server.browser().post("/console/sign-in", data={"key": HOSTILE, "next": HOSTILE}))
        for answer in answers:
            assert not re.search(r"<img|<script>|\u202e|62615533", answer.text), answer.url
        if hostile:
            shown = [answer.url.path for answer in answers if "&lt;img src=x onerror=alert(1)&gt;" in answer.text]
            paths = {page.path.format(**known).partition("?")[0] for page in PAGES.values()}
            assert paths - {*shown} == {f"/console/use-cases/{NAME}/drift"}  # of which tests/unit/test_drift_page.py


def test_another_site_signs_nobody_in_and_no_cookie_is_taken_over(server: ConsoleServer) -> None:
    for headers in ({"sec-fetch-site": "cross-site"}, {"origin": "https://evil.example"}):
        answer = server.browser(**headers).post("/console/sign-in", data={"key": server.keys["bob"]})
        assert (answer.status_code, "set-cookie" in answer.headers) == (403, False)
    browser = server.browser()
    browser.cookies.set("mlops_ray", "chosen-by-a-stranger")
    entered = browser.post("/console/sign-in", data={"key": server.keys["bob"]})
    assert "chosen-by-a-stranger" not in entered.headers["set-cookie"]
    before = server.browser("bob")
    old = before.cookies["mlops_ray"]
    before.post("/console/sign-in", data={"key": server.keys["bob"]})
    stolen = server.browser()
    stolen.cookies.set("mlops_ray", old or "")
    assert stolen.get("/console").status_code == 303


@pytest.mark.parametrize("to", ELSEWHERE)
def test_signing_in_leads_nowhere_else(server: ConsoleServer, to: str) -> None:
    browser = server.browser()
    kept = browser.post("/console/sign-in", data={"key": server.keys["bob"], "next": to}).headers["location"]
    assert browser.get(kept).headers["location"] == "/console"
    assert browser.get("/console/sign-in", params={"next": to, "kept": "1"}).headers["location"] == "/console"


def test_what_anybody_reaches_is_safe_too(server: ConsoleServer) -> None:
    stranger = server.browser()
    for path in ("/console/sign-in", "/console/sign-in/provider", "/console/sign-in/callback", "/console/nowhere"):
        expect_safe(stranger.get(path))
        expect_safe(stranger.get(path, params={"next": "//evil.example", "code": HOSTILE, "state": HOSTILE}))
