"""The console in a real browser: what people of each role do there, at both widths, light and dark."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, Route, expect, sync_playwright

from mlops_ray.governance.approvals import approve
from mlops_ray.governance.events import Actor, read_events
from mlops_ray.governance.keys import active_keys
from mlops_ray.governance.live import live
from mlops_ray.governance.policies import Policy
from mlops_ray.governance.policy_changes import set_policy
from mlops_ray.governance.rollback import roll_back
from mlops_ray.testing.example_lineage import AUTHOR
from tests.console_routes import PAGES, fill_all
from tests.console_server import BOB, HOSTILE, ConsoleServer, console, roll_out
from tests.oidc_provider import SECRET, OidcProvider, free_port
from tests.unit.test_console_provider import CALLBACK, settings_for
from tests.unit.test_drift_page import NAME

PATHS = {
    "use case": "/console/use-cases/flights",
    "version": "/console/use-cases/flights/versions/2",
    "audit": "/console/audit",
}
CHROMIUM = "/usr/bin/chromium"  # Debian's


@dataclass(frozen=True)
class Full:
    """paths: of a page of each kind, by its name."""

    server: ConsoleServer
    paths: dict[str, str]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ConsoleServer]:
    with console(tmp_path) as server:
        yield server


def window(chromium: Browser, server: ConsoleServer, width: int = 1280, scheme: str = "light") -> BrowserContext:
    """Nothing but the server is reached from it, in Berlin."""
    context = chromium.new_context(
        viewport={"width": width, "height": 900},
        color_scheme="dark" if scheme == "dark" else "light",
        timezone_id="Europe/Berlin",
        locale="en-GB",
    )
    context.set_default_timeout(20_000)

    def cut(route: Route) -> None:
        assert route.request.url.startswith(server.url), route.request.url
        route.continue_()

    context.route("**/*", cut)
    return context


def signed_in(context: BrowserContext, server: ConsoleServer, who: str, link: str = "/console") -> Page:
    """As a person does it who was sent a link. What the browser complains of, or asks in a dialog, fails the test."""
    page = context.new_page()
    page.on("console", lambda said: pytest.fail(said.text) if "Content Security Policy" in said.text else None)
    page.on("pageerror", lambda error: pytest.fail(str(error)))
    page.on("dialog", lambda dialog: pytest.fail(dialog.message))
    page.goto(server.url + link)
    page.get_by_label("Your API key").fill(server.keys[who])
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(server.url + link)
    return page


def test_somebody_approves_from_the_overview_and_the_list_says_nothing_waits(
    chromium: Browser, server: ConsoleServer
) -> None:
    page = signed_in(window(chromium, server), server, "bob")
    page.get_by_role("link", name="Approve or reject version 2").click()
    page.get_by_label("Reason, for the audit log").fill("Better on every slice.")
    page.get_by_role("button", name="Approve version 2").click()
    expect(page.get_by_text("✓ approved")).to_be_visible()
    page.reload()  # asks for nothing again: it is the answer to a page, not to a form
    expect(page.locator("#decision + p")).to_contain_text("Better on every slice.")
    page.get_by_role("link", name="Overview").click()
    expect(page.get_by_role("link", name="Approve or reject version 2")).to_have_count(0)
    page.go_back()
    expect(page.get_by_role("button", name="Approve version 2")).to_have_count(0)
    approved = read_events(server.store, types=["approval.approved"])[-1]
    assert (approved.actor, approved.reason) == ("bob", "Better on every slice.")


def test_a_rejection_without_a_reason_is_asked_for_one(chromium: Browser, server: ConsoleServer) -> None:
    page = signed_in(window(chromium, server), server, "bob", PATHS["version"])
    page.get_by_role("button", name="Reject it").click()
    assert page.evaluate("document.activeElement.id") == "reason"
    page.keyboard.type("Worse at night.")
    page.get_by_role("button", name="Reject it").click()
    expect(page.get_by_text("▲ rejected")).to_be_visible()


def test_who_looked_before_another_decided_is_told_who_and_when(chromium: Browser, server: ConsoleServer) -> None:
    late = signed_in(window(chromium, server), server, "carol", PATHS["version"])
    late.get_by_label("Reason, for the audit log").fill("Looks wrong to me.")
    first = signed_in(window(chromium, server), server, "bob", PATHS["version"])
    first.get_by_label("Reason, for the audit log").fill("Good.")
    first.get_by_role("button", name="Approve version 2").click()
    expect(first.get_by_text("✓ approved")).to_be_visible()
    late.get_by_role("button", name="Reject it").click()
    expect(late.get_by_role("alert")).to_contain_text("approved by bob already, at 20")
    expect(late.get_by_text("What you wrote: Looks wrong to me.")).to_be_visible()


def test_who_operates_rolls_back_and_who_approves_is_not_offered_it(chromium: Browser, server: ConsoleServer) -> None:
    roll_out(server)
    page = signed_in(window(chromium, server), server, "bob", PATHS["use case"])
    expect(page.get_by_text("replicas load it")).to_be_visible()
    expect(page.get_by_role("button", name="Roll back to version 1")).to_have_count(0)
    page = signed_in(window(chromium, server), server, "ann", PATHS["use case"])
    page.get_by_label("Why you go back, for the audit log").fill("Latency doubled.")
    page.get_by_role("button", name="Roll back to version 1").click()
    expect(page.get_by_text("No rollout runs.")).to_be_visible()
    assert live(server.store, "flights").rollout is None


def test_a_rollout_is_begun_and_paused_and_the_page_tells_what_became_of_it(
    chromium: Browser, server: ConsoleServer
) -> None:
    approve(server.store, BOB, "flights", 2, "good")
    page = signed_in(window(chromium, server), server, "ann", PATHS["use case"])
    page.get_by_label("Why it comes in").fill("Better on every slice.")
    page.get_by_role("button", name="Begin the rollout").click()
    page.get_by_label("Why it waits").fill("The night shift looks first.")
    page.get_by_role("button", name="Pause it").click()
    expect(page.get_by_text("❚❚ paused")).to_be_visible()
    state = live(server.store, "flights")
    assert state.rollout is not None
    roll_back(server.store, AUTHOR, "flights", state.revision, 1, "complaints")
    page.evaluate("document.activeElement.blur(); refresh()")  # what it does by itself every ten seconds
    expect(page.get_by_text("No rollout runs.")).to_be_visible()
    page.get_by_label("Why it waits").fill("Go on.")
    page.get_by_role("button", name="Let it go on").click()
    expect(page.get_by_role("alert")).to_contain_text(f"by {AUTHOR.name}, at 20")
    expect(page.get_by_role("alert")).to_contain_text("What you wrote: Go on.")


def test_an_administrator_makes_a_key_that_is_shown_once(chromium: Browser, server: ConsoleServer) -> None:
    page = signed_in(window(chromium, server), server, "root")
    page.get_by_role("link", name="Keys").click()
    page.get_by_label("Name, as the audit log").fill("dora")
    page.get_by_label("operate", exact=True).check()
    page.get_by_role("button", name="Make the key").click()
    secret = page.get_by_label("Secret").inner_text()
    page.get_by_role("link", name="To all keys").click()
    expect(page.get_by_role("rowheader", name="dora")).to_be_visible()
    assert secret not in page.content()
    server.guard.keys, server.keys["dora"] = active_keys(server.store), secret
    assert signed_in(window(chromium, server), server, "dora").get_by_text("dora (operate)").is_visible()


def test_rules_that_wait_are_approved_by_somebody_else(chromium: Browser, server: ConsoleServer) -> None:
    set_policy(server.store, Actor("ada", ("operate",), id="ada"), "flights", Policy(), (), "too slow for us")
    page = signed_in(window(chromium, server), server, "bob")
    page.get_by_role("link", name="Approve or reject other rules").click()
    page.get_by_label("Reason, for the audit log").fill("Agreed.")
    page.get_by_role("button", name="Approve it").click()
    expect(page.get_by_role("cell", name="in force")).to_be_visible()


def test_who_has_an_account_at_the_provider_needs_no_key(
    chromium: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"http://127.0.0.1:{(port := free_port())}"
    provider = OidcProvider(url + CALLBACK)
    provider.claims = {"sub": "pat", "groups": ["approvers"]}
    provider.start()
    monkeypatch.setenv("CONSOLE_SECRET", SECRET)
    with console(tmp_path, port=port, **settings_for(provider, tmp_path, url)) as server:
        page = chromium.new_context(locale="en-GB").new_page()
        page.goto(server.url + PATHS["version"])
        page.get_by_role("link", name="Sign in with 127.0.0.1").click()
        page.wait_for_url(server.url + PATHS["version"])
        expect(page.get_by_text("pat (approve)")).to_be_visible()
    provider.stop()


def test_who_operates_silences_an_alarm(chromium: Browser, server: ConsoleServer) -> None:
    page = signed_in(window(chromium, server), server, "ann")
    page.get_by_role("link", name="critical: The inputs have changed").click()
    page.get_by_text("Silence the alarm about version 1").click()
    page.get_by_label("Why nobody has to act").fill("The clocks were changed.")
    page.get_by_label("For", exact=True).select_option("a day")
    page.get_by_role("button", name="Silence it").click()
    expect(page.get_by_text("silenced until")).to_contain_text("The clocks were changed.")
    page.get_by_role("link", name="Overview").click()
    expect(page.get_by_role("link", name="The inputs have changed")).to_have_count(0)


def test_an_auditor_finds_an_event_and_has_the_chain_verified(chromium: Browser, server: ConsoleServer) -> None:
    page = signed_in(window(chromium, server), server, "audrey")
    page.get_by_role("link", name="Audit log").click()
    page.get_by_label("Use case").fill("flights")
    page.get_by_label("Type").select_option("champion.set")
    page.get_by_role("button", name="Filter").click()
    expect(page.locator("tbody tr")).to_have_count(1)
    page.get_by_role("button", name="Verify all events").click()
    expect(page.get_by_text("✓ intact").or_(page.get_by_text("● runs"))).to_be_visible()
    page.get_by_role("button", name="Sign out").click()
    page.goto(server.url + PATHS["audit"])
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()


def test_times_are_the_viewers_with_utc_at_hand(chromium: Browser, server: ConsoleServer) -> None:
    page = signed_in(window(chromium, server), server, "bob", PATHS["version"])
    shown = page.locator("time").first
    utc = str(shown.get_attribute("datetime"))
    hour = (int(utc[11:13]) + (1 if utc[5:7] in ("11", "12", "01", "02") else 2)) % 24
    assert f"{hour:02}:{utc[14:16]}" in shown.inner_text() or utc[5:7] in ("03", "10")
    assert shown.get_attribute("title") == f"{utc[:10]} {utc[11:16]} UTC"


def test_who_has_no_mouse_reaches_the_decision(chromium: Browser, server: ConsoleServer) -> None:
    page = signed_in(window(chromium, server), server, "bob")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the page"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_url("**/versions/2#decision")


def test_each_role_goes_through_every_page(chromium: Browser, server: ConsoleServer) -> None:
    """What a role may not see says so, and leads back."""
    known = fill_all(server)
    for who in ("audrey", "eve", "ann", "bob"):
        page = signed_in(window(chromium, server, 390), server, who)
        for route, one in PAGES.items():
            answer = page.goto(server.url + one.path.format(**known))
            assert answer is not None
            assert answer.ok == (who in one.may), (who, route)
            expect(page.get_by_role("heading", level=1)).to_be_visible()
            if not answer.ok:
                page.get_by_role("link", name="To the overview").or_(page.get_by_role("link", name="Overview")).click()
                page.wait_for_url(f"{server.url}/console")


def test_a_row_that_is_a_block_on_a_phone_is_a_row_to_a_screen_reader(chromium: Browser, server: ConsoleServer) -> None:
    context = window(chromium, server, 390)
    page = signed_in(context, server, "root")
    assert page.evaluate("getComputedStyle(document.querySelector('tbody tr')).display") == "block"
    tree = context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
    found = [(one["role"]["value"], one.get("name", {}).get("value", "")) for one in tree if not one["ignored"]]
    roles = [role for role, _ in found]
    assert (roles.count("table"), roles.count("row"), roles.count("rowheader")) == (1, 3, 2)
    assert ("columnheader", "open alarms") in found
    assert ("cell", "▲ 1") in found  # what its column is stands in the head, and is not read twice


# Of tables on a phone; charts are scrolled in their box, and have a table behind them.
WIDE = """[...document.querySelectorAll('.scroll')].filter(
    (one) => one.querySelector(':scope > table') && one.scrollWidth > one.clientWidth + 1
).map((one) => one.outerHTML.slice(0, 120))"""


@pytest.fixture(scope="module")
def full(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Full]:
    """With something on every page: plain names, or hostile ones wherever there are any."""
    with console(tmp_path_factory.mktemp("full"), request.param) as server:
        known = fill_all(server, request.param)
        paths = {route: one.path.format(**known) for route, one in PAGES.items()}
        yield Full(server, paths | {"feature": f"/console/use-cases/{NAME}/drift?feature=origin"})


WINDOWS = [("", width, scheme) for width in (1280, 390) for scheme in ("light", "dark")]
WINDOWS += [(HOSTILE, 1280, "light"), (HOSTILE, 390, "dark")]


@pytest.mark.parametrize(
    ("full", "width", "scheme"),
    WINDOWS,
    indirect=["full"],
    ids=[f"{'hostile' if name else 'plain'}-{width}-{scheme}" for name, width, scheme in WINDOWS],
)
def test_every_page_is_accessible_and_fits(
    chromium: Browser, full: Full, tmp_path: Path, width: int, scheme: str
) -> None:
    page = signed_in(window(chromium, full.server, width, scheme), full.server, "root")
    for name, path in full.paths.items():
        answer = page.goto(full.server.url + path)
        assert answer is not None
        assert answer.ok, name
        page.evaluate("document.querySelectorAll('details').forEach((one) => (one.open = true))")
        page.screenshot(path=tmp_path / f"{name.replace('/', '_')}.png", full_page=True)
        found = Axe().run(page).response["violations"]
        assert [one["id"] for one in found if one["impact"] in ("serious", "critical")] == [], name
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
        assert width > 390 or page.evaluate(WIDE) == [], name
        assert page.locator("img").count() == 0
    page.goto(full.server.url + "/console/sign-in")
    assert [one["id"] for one in Axe().run(page).response["violations"]] == []
