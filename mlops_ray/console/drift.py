"""Drift: how features, predictions and quality of a use case moved, as `mlops-ray drift --page` shows it, in sections:
one that leads to all others, each feature, the other slices, and requests hour by hour."""

from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response

from mlops_ray.config import Settings
from mlops_ray.console.page import Refused, Viewer, in_thread, page_with_style
from mlops_ray.console.rendering import made_elsewhere
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.versions import expect_name

if TYPE_CHECKING:
    from mlops_ray.monitoring.show.drift_view import DriftViews

_FIELDS, _MAX_TEXT = ("version", "windows", "feature", "part"), 2_000


class DriftPages:
    def __init__(self, settings: Settings, store: ControlStore, threads: ThreadPoolExecutor):
        self._settings, self._store, self._threads = settings, store, threads

    async def show(self, request: Request, viewer: Viewer) -> Response:
        use_case, accepts = request.path_params["use_case"], request.headers.get("accept-encoding", "")
        viewer.expect_look(use_case)
        expect_name(use_case)  # it becomes part of a path
        asked = {name: request.query_params.get(name, "")[:_MAX_TEXT] for name in _FIELDS}
        return await in_thread(self._threads, partial(self._made, viewer, accepts, use_case, asked))

    def _made(self, viewer: Viewer, accepts: str, use_case: str, asked: dict[str, str]) -> Response:
        from mlops_ray.monitoring.show.sections import Asked, section_html

        section = section_html(self._views.of(use_case), Asked(**asked))
        if section is None:
            raise Refused(404, f"{use_case} has no such version, kind of window, feature or part of its monitoring.")
        made, whole = made_elsewhere(section), not any(asked.values())
        return page_with_style("drift", viewer, accepts, use_case=use_case, made=made, whole=whole)

    @cached_property
    def _views(self) -> "DriftViews":
        # Imported where it is needed: it takes SciPy and a second, and few ever ask.
        from mlops_ray.monitoring.show.drift_view import DriftViews

        return DriftViews(self._settings, self._store)
