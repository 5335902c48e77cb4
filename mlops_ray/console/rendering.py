"""Rendering: templates of the package, with every text escaped, and numbers and moments as people read them."""

import hashlib
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from mlops_ray.show import document, evaluation, graph
from mlops_ray.show.text import figures

STATIC = {
    "charts.css": "text/css; charset=utf-8",
    "console.css": "text/css; charset=utf-8",
    "console.js": "text/javascript; charset=utf-8",
    "console.svg": "image/svg+xml",
}


@cache
def environment() -> Environment:
    made = Environment(
        loader=PackageLoader("mlops_ray.console"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"moment": moment, "utc": utc, "age": age, "count": count, "value": value, "figures": figures}
    made.globals |= {"static": {name: f"/console/static/{name}?v={_digest(name)}" for name in STATIC}}
    return made


def render(template: str, **values: Any) -> str:
    return environment().get_template(template).render(values)


def static(name: str) -> bytes:
    """A file of the bundle; `name` is one of STATIC. The style of charts is that of notebooks and reports."""
    if name == "charts.css":
        return (document.STYLE + evaluation.STYLE + graph.STYLE).encode()
    return files("mlops_ray.console").joinpath("static", name).read_bytes()


@cache
def _digest(name: str) -> str:
    return hashlib.sha256(static(name)).hexdigest()[:12]


def moment(value: datetime | str | None) -> Markup:
    """In UTC; the script of the pages shows it in the viewer's zone and keeps UTC at hand."""
    if not value:
        return Markup("")
    when = (datetime.fromisoformat(value) if isinstance(value, str) else value).astimezone(UTC).isoformat()
    # Digits alone, so nothing is escaped: a page has hundreds.
    return Markup(f'<time datetime="{when[:19]}Z">{when[:10]} {when[11:16]} UTC</time>')


def utc(text: str) -> Markup | str:
    """What a card says of a moment, such as `2026-11-28 22:44`, as every other; what is none, as it stands."""
    try:
        return moment(datetime.fromisoformat(text).replace(tzinfo=UTC))
    except ValueError:
        return text


def age(value: datetime | str, now: datetime) -> str:
    """How long ago: in the largest unit that makes at least two."""
    since = now - (datetime.fromisoformat(value) if isinstance(value, str) else value)
    for unit, length in (("days", timedelta(days=1)), ("hours", timedelta(hours=1)), ("minutes", timedelta(minutes=1))):
        if since >= 2 * length:
            return f"{since // length:,} {unit} ago"
    return "just now"


def count(value: int) -> str:
    return f"{value:,}"


def value(given: Any) -> Any:
    """Of any column: nothing where it is missing, numbers as the ledger has them."""
    if isinstance(given, datetime):
        return moment(given)
    if isinstance(given, float):
        return figures(given, 6).replace(",", "")
    return "" if given is None else given


def made_elsewhere(html: str) -> Markup:
    """HTML of our own charts and tables, which escapes all that it is given."""
    return Markup(_printable(html))


def _visible(value: Any) -> Any:
    """No character that is not seen, or turns others around (Boucher and Anderson, "Trojan Source", 2021), is shown as
    itself."""
    if isinstance(value, Markup) or not isinstance(value, str) or value.isprintable():
        return value
    return escape(_printable(value))


def _printable(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() or one == "\n" else "\N{REPLACEMENT CHARACTER}" for one in text)
