"""The console in a real browser: what people of each role do there, at both widths, light and dark."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, Route, expect, sync_playwright

from mlops_ray.governance.events import read_events
from mlops_ray.governance.live import live
from tests.console_server import HOSTILE, ConsoleServer, console, roll_out

PATHS = {
    "overview": "/console",
    "use case": "/console/use-cases/flights",
    "version": "/console/use-cases/flights/versions/2",
    "audit": "/console/audit",
}
CHROMIUM = "/usr/bin/chromium"  # Debian's


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


@pytest.mark.parametrize("hostile", ["", HOSTILE], ids=["plain", "hostile"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_every_page_is_accessible_and_fits(
    chromium: Browser, tmp_path: Path, width: int, scheme: str, hostile: str
) -> None:
    with console(tmp_path / "state", hostile) as server:
        roll_out(server)
        page = signed_in(window(chromium, server, width, scheme), server, "root")
        for name, path in PATHS.items():
            page.goto(server.url + path)
            page.screenshot(path=tmp_path / f"{name}.png", full_page=True)
            found = Axe().run(page).response["violations"]
            assert [one["id"] for one in found if one["impact"] in ("serious", "critical")] == [], name
            assert page.evaluate("document.documentElement.scrollWidth") <= width, name
            assert page.locator("img").count() == 0
        page.goto(server.url + "/console/sign-in")
        assert [one["id"] for one in Axe().run(page).response["violations"]] == []
