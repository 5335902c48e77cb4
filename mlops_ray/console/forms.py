"""Forms: what a browser posts, from a page of ours or not at all."""

import re
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from urllib.parse import parse_qsl, urlsplit

from starlette.requests import Request

from mlops_ray.console.page import LARGEST, Refused

MAX_FORM_BYTES, MAX_FIELDS = 64_000, 20
LONGEST_PATH = 2_000  # of one that waits in a cookie, which browsers keep up to 4 kB
_MOMENT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}(:[0-9]{2})?")
_LOCAL = re.compile(r"/console(/[\w@.~-]+)*(\?[\w=&.,:%+@-]*)?", re.ASCII)


async def read_form(request: Request) -> Mapping[str, str]:
    """Its fields. Raises Refused for what is no form, is too large, or says a thing twice."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/x-www-form-urlencoded":
        raise Refused(415, "This is no form of the console.")
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MAX_FORM_BYTES:
            raise Refused(413, f"The form has more than {MAX_FORM_BYTES:,} bytes. Write less.")
    try:
        pairs = parse_qsl(body.decode("ascii"), True, errors="strict", max_num_fields=MAX_FIELDS)
    except ValueError:
        raise Refused(400, "The form is not understood.") from None
    if len(dict(pairs)) < len(pairs):
        raise Refused(400, "The form says a thing twice.")
    return dict(pairs)


def expect_same_site(request: Request) -> None:
    """Raise Refused for what another site makes a browser send: by what browsers say of it, which no page can change
    (OWASP, "Cross-Site Request Forgery Prevention Cheat Sheet": Fetch Metadata, then the origin)."""
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    foreign = site is not None and site not in ("same-origin", "none")
    if site is None and origin is not None:
        foreign = urlsplit(origin).netloc != request.headers.get("host", "")
    if foreign:
        raise Refused(403, "Another site sent this, so it was not done. Use the console's own pages.")


def expect_form_token(form: Mapping[str, str], token: str) -> None:
    """Raise Refused unless the form is of a page of this session."""
    if not secrets.compare_digest(form.get("form_token", "").encode(), token.encode()):
        raise Refused(403, "This form is of a session that has ended. Load the page again, and send it from there.")


def local_path(asked: str) -> str:
    """Where to go after signing in: a page of the console, whatever was asked."""
    local = len(asked) <= LONGEST_PATH and _LOCAL.fullmatch(asked) and ".." not in asked
    return asked if local else "/console"


def number_of(form: Mapping[str, str], name: str) -> int:
    """Raises Refused for what is no number of a version or a revision."""
    text = form.get(name, "")
    if not re.fullmatch(r"[0-9]{1,10}", text) or int(text) > LARGEST:
        raise Refused(400, f"{name} is no number.")
    return int(text)


def listed(form: Mapping[str, str], name: str) -> list[str]:
    """What stands there, separated by commas or white space."""
    return [part for part in re.split(r"[\s,]+", form.get(name, "")) if part]


def moment_in(form: Mapping[str, str], name: str) -> str | None:
    """A moment as browsers give it, in UTC; None if it is left out. Raises Refused for what is none."""
    text = form.get(name, "").strip()
    if not text:
        return None
    try:
        if not _MOMENT.fullmatch(text):
            raise ValueError
        return datetime.fromisoformat(text).replace(tzinfo=UTC).isoformat()
    except ValueError:
        raise Refused(400, f"{name} is no moment. Write it as 2027-01-31T18:00, in UTC.") from None
