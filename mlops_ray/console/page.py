"""A page: what every one has, for whom it is made, and what refuses one."""

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from starlette.responses import HTMLResponse

from mlops_ray.console.rendering import render
from mlops_ray.console.server import Answer
from mlops_ray.errors import ConfigurationError, DataError, ForbiddenError, MlopsRayError, UnavailableError
from mlops_ray.governance.principals import Principal, Role

_T = TypeVar("_T")
LARGEST = 2**31 - 1  # of the numbers of versions and revisions
MAX_SENTENCE = 500


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


def page_of_error(error: Exception, viewer: Viewer | None) -> HTMLResponse:
    """What went wrong, in a sentence that says nothing of this machine."""
    status, sentence = 500, "The server failed; its log tells more. Nothing that you sent was done halfway."
    if isinstance(error, Refused):
        status, sentence = error.status, error.sentence
    elif isinstance(error, TimeoutError):
        status, sentence = 504, "The page was not ready in time. Ask again."
    elif isinstance(error, MlopsRayError):
        status = next((one for kind, one in _STATUS.items() if isinstance(error, kind)), 500)
        sentence = str(error) if status in (400, 403) else sentence
        sentence = "The control store does not answer. Ask again." if status == 503 else sentence
    return page("error", viewer, status, code=status, sentence=sentence[:MAX_SENTENCE])


_STATUS: Mapping[type[MlopsRayError], int] = {
    ConfigurationError: 400,
    DataError: 400,
    ForbiddenError: 403,
    UnavailableError: 503,
}


def expect_done(answer: Answer) -> None:
    """Raise Refused with what a route says against what was asked of it."""
    if answer.status >= 400:
        raise Refused(answer.status, answer.error)
