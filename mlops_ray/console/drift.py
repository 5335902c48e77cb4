"""Drift: how features, predictions and quality of a use case moved, as `mlops-ray drift --page` shows it."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import Response

from mlops_ray.config import Settings
from mlops_ray.console.page import Viewer, in_thread, page
from mlops_ray.governance.versions import expect_name

# Its charts bring their style along, as they do to a notebook. A style can neither run nor send anything from here.
_WITH_STYLE = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self'; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'"
)


class DriftPages:
    def __init__(self, settings: Settings, threads: ThreadPoolExecutor):
        self._settings, self._threads = settings, threads

    async def show(self, request: Request, viewer: Viewer) -> Response:
        use_case = request.path_params["use_case"]
        viewer.expect_look(use_case)
        expect_name(use_case)  # it becomes part of a path
        return await in_thread(self._threads, partial(self._made, viewer, use_case))

    def _made(self, viewer: Viewer, use_case: str) -> Response:
        # Imported where it is needed: it takes SciPy and a second, and few ever ask.
        from mlops_ray.monitoring.show.drift_view import drift

        made = Markup(drift(use_case, self._settings)._repr_html_())  # it escapes all that it is given
        answer = page("drift", viewer, use_case=use_case, made=made)
        answer.headers["content-security-policy"] = _WITH_STYLE
        return answer
