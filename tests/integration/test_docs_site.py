"""The site is built strictly and without a network, every page can be found, and every link leads somewhere."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import yaml

from mlops_ray.config import Settings
from mlops_ray.governance.events import EVENT_TYPES

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    str(file.relative_to(ROOT / "docs"))
    for file in (ROOT / "docs").rglob("*.md")
    if "_site" not in file.parts and file.parent.name != "decisions"
)


class _Loader(yaml.SafeLoader):
    """mkdocs.yml may name Python objects, which nobody needs here."""


_Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: None)


def named(part: Any) -> Iterator[str]:
    """The pages of a navigation."""
    if isinstance(part, str):
        yield part
    else:
        for one in part.values() if isinstance(part, dict) else part:
            yield from named(one)


class _Page(HTMLParser):
    """What a page refers to, and what can be referred to in it."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.ids: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.ids |= {given[name] for name in ("id", "name") if name in given}
        target = given.get("href") or given.get("src")
        if target is not None:
            leads = tag == "a" or given.get("rel") in ("prev", "next", "canonical")
            (self.links if leads else self.loaded).append(target)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> dict[str, _Page]:
    folder = tmp_path_factory.mktemp("site")
    proxies = dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9")  # whatever is fetched fails
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", folder],
        cwd=ROOT, env=os.environ | proxies | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    pages = {}
    for file in folder.rglob("*.html"):
        page = _Page()
        page.feed(file.read_text())
        pages[str(file.relative_to(folder))] = page
    for file in folder.rglob("*"):
        if file.is_file() and file.suffix != ".html":
            pages[str(file.relative_to(folder))] = _Page()
    return pages


@pytest.mark.parametrize("page", PAGES)
def test_every_page_is_in_the_navigation(page: str) -> None:
    navigation = yaml.load((ROOT / "mkdocs.yml").read_text(), _Loader)["nav"]
    assert page in set(named(navigation)), (
        f"Add `- A title: {page}` to `nav` in mkdocs.yml, where a reader looks for it."
    )


def test_every_link_and_its_anchor_lead_somewhere(site: dict[str, _Page]) -> None:
    lost = []
    for name, page in site.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or name == "404.html":
                continue
            target = os.path.normpath(f"{os.path.dirname(name)}/{unquote(parts.path)}") if parts.path else name
            found = site.get(target.lstrip("./"))
            if found is None or (parts.fragment and unquote(parts.fragment) not in found.ids):
                lost.append(f"{name}: {link}")
    assert lost == []


def test_nothing_is_loaded_from_another_host(site: dict[str, _Page]) -> None:
    away = {one for page in site.values() for one in page.loaded if urlsplit(one).scheme in ("http", "https")}
    assert away == set()


def test_pages_from_the_code_have_all_that_there_is(site: dict[str, _Page]) -> None:
    sys.path.insert(0, str(ROOT / "docs" / "_site"))
    try:
        import generated
    finally:
        sys.path.pop(0)
    settings, events, commands = generated.settings(), generated.events(), generated.commands()
    assert [name for name in Settings.model_fields if f"| `{name}` |" not in settings] == []
    assert [name for name in Settings.model_fields if not re.search(rf"^- \*\*[^:]*\b{name}\b", settings, re.M)] == []
    assert [name for name in EVENT_TYPES if f"| `{name}` |" not in events] == []
    assert "## mlops-ray rollout rollback" in commands
    assert {"imports.html", "decisions/index.html", "reference/errors.html", "python.html"} <= site.keys()


@pytest.mark.parametrize("file", sorted((ROOT / "docs" / "decisions").glob("0*.md")), ids=lambda file: file.stem[:4])
def test_a_decision_says_when_it_was_made_and_whether_it_holds(file: Path) -> None:
    third = file.read_text().splitlines()[2]
    assert re.fullmatch(r"\*20\d\d-\d\d-\d\d\. (In force|Replaced by \[\d{4}\]\(\S+\.md\)|Withdrawn)\.\*", third), third
