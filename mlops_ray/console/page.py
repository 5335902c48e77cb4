"""A page: what every one has, for whom it is made, and what refuses one."""

import asyncio
import gzip
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from starlette.responses import HTMLResponse, Response

from mlops_ray.console.rendering import render
from mlops_ray.console.server import Answer
from mlops_ray.governance.principals import Principal, Role

_T = TypeVar("_T")
LARGEST = 2**31 - 1  # of the numbers of versions and revisions
MAX_SENTENCE = 500
_WITH_STYLE = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self'; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'"
)


class Refused(Exception):
    """A page is not given: a status of HTTP, and a sentence for who asked."""

    def __init__(self, status: int, sentence: str):
        super().__init__(status, sentence)
        self.status, self.sentence = status, sentence


@dataclass(frozen=True)
class Viewer:
    """Who looks, and when. form_token: what their forms bring."""

    principal: Principal
    form_token: str
    now: datetime

    def may(self, role: Role | str, use_case: str | None) -> bool:
        """role: `Role`, or what a use case's policy names instead."""
        return bool({role, "admin"} & set(self.principal.roles_on(use_case)))

    def may_look(self, use_case: str | None) -> bool:
        return self.principal.may_look(use_case, self.now)

    def expect_look(self, use_case: str) -> None:
        """Raise Refused unless they may see the use case; whether there is such a one is not said."""
        if not self.may_look(use_case):
            raise Refused(403, f"Your key does not let you see {use_case[:63]!a}.")


async def in_thread(threads: ThreadPoolExecutor, make: Callable[[], _T]) -> _T:
    """What reads the control store, beside the event loop."""
    return await asyncio.get_running_loop().run_in_executor(threads, make)


def page(template: str, viewer: Viewer | None, status: int = 200, **values: Any) -> HTMLResponse:
    """viewer: None for who is not signed in."""
    return HTMLResponse(render(f"{template}.html", viewer=viewer, **values), status)


def page_with_style(template: str, viewer: Viewer, accepts: str, **values: Any) -> Response:
    """For charts that bring their style along, as they do to a notebook. A style can neither run nor send anything.

    accepts: of the request's `accept-encoding`. Charts are compressed: they shrink to an eighth, and on these pages
    stands nothing that a stranger could choose to guess at what stands beside it (BREACH, 2013).
    """
    html = render(f"{template}.html", viewer=viewer, **values).encode()
    headers = {"content-security-policy": _WITH_STYLE, "vary": "accept-encoding"}
    if "gzip" in accepts:
        html, headers["content-encoding"] = gzip.compress(html, 5), "gzip"
    return HTMLResponse(html, headers=headers)


def page_of_refusal(refusal: Refused, viewer: Viewer | None, form: Mapping[str, str] | None = None) -> HTMLResponse:
    """form: what was sent, of which nobody's own words are lost."""
    status, sentence = refusal.status, refusal.sentence[:MAX_SENTENCE]
    return page("error", viewer, status, code=status, sentence=sentence, form=form or {})


def expect_done(answer: Answer) -> None:
    """Raise Refused with what a route says against what was asked of it."""
    if answer.status >= 400:
        raise Refused(answer.status, answer.error)
