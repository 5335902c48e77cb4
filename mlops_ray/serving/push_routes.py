"""The route by which fresh feature values come, for all versions of a use case that this replica holds."""

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
import polars as pl
from msgspec import Meta

from mlops_ray.artifacts import Artifacts
from mlops_ray.config import Settings
from mlops_ray.errors import DataError
from mlops_ray.features.columns import DTYPES, PREDICTION_TIME
from mlops_ray.features.definitions import Definitions, View, load_definitions
from mlops_ray.serving.follower import Follower
from mlops_ray.serving.http import MAX_BODY_BYTES, HttpError, Request, Response, Route
from mlops_ray.serving.json_body import TypedJson
from mlops_ray.serving.rows import RowReader
from mlops_ray.serving.validation import MAX_ROWS
from mlops_ray.use_case import Column

PUSHES_AT_A_TIME = 4
_MOMENT = pl.Datetime("us", "UTC")
_COLUMN_TYPES: Mapping[str, Any] = {
    "Float64": "number",
    "Float32": "number",
    "Int64": "integer",
    "Int32": "integer",
    "Bool": "boolean",
    "String": "text",
}


class _Named(msgspec.Struct, forbid_unknown_fields=True):
    view: str
    rows: msgspec.Raw


class PushBody:
    """Reads the rows of one view, as the rows of a request are read."""

    def __init__(self, view: View):
        moment = Column(PREDICTION_TIME, "timestamp")
        self._columns = [moment, *(_column(view, name) for name in (*view.keys, *view.fields))]
        self._types = {PREDICTION_TIME: _MOMENT, **{name: DTYPES[type_] for name, type_ in view.types.items()}}
        self._rows = RowReader(self._columns)
        self._json = TypedJson(self._body(self._rows.canonical_type), self._body(self._rows.any_type))

    def decode(self, content: bytes) -> pl.DataFrame:
        """Raises HttpError 400 naming the first field that is wrong."""
        body = self._json.decode_if_canonical(content)
        values = None if body is None else self._rows.canonical(body.rows)
        if values is None:
            rows = self._json.any_values(content).rows
            values = self._rows.judged(rows, [f"rows[{number}]" for number in range(len(rows))])
        names = [column.name for column in self._columns]
        schema = pl.Schema({name: self._types[name] for name in names})
        return pl.DataFrame(values, schema=schema, orient="row")

    def _body(self, row: Any) -> type[msgspec.Struct]:
        rows = Annotated[list[row], Meta(min_length=1, max_length=MAX_ROWS)]
        return msgspec.defstruct("Body", [("view", str), ("rows", rows)], forbid_unknown_fields=True)


def _column(view: View, name: str) -> Column:
    column = Column(name, _COLUMN_TYPES[view.types[name]], nullable=name not in view.keys)
    return replace(column, minimum=-(2**31), maximum=2**31 - 1) if view.types[name] == "Int32" else column


class PushRoutes:
    """Of one use case. What is confirmed is kept on shared storage first, then online in each project that a version
    held here reads, where its definitions have the same view."""

    def __init__(self, settings: Settings, use_case: str, follower: Follower, clock: Callable[[], float]):
        self._settings, self._use_case = settings, use_case
        self._follower, self._clock = follower, clock
        self._definitions: dict[str, Definitions] = {}
        self._bodies: dict[tuple[str, str], PushBody] = {}
        # Of their own: shared storage, or the online store, may hang in each, and a rollback waits for neither.
        self._threads = ThreadPoolExecutor(PUSHES_AT_A_TIME, thread_name_prefix="push")

    def routes(self) -> dict[str, dict[str, Route]]:
        return {"/features": {"POST": Route(self._push, "operate")}}

    async def _push(self, request: Request) -> Response:
        request.expect_content_type("application/json")
        request.max_body_bytes = MAX_BODY_BYTES
        content = await request.body()
        try:
            name = msgspec.json.decode(content, type=_Named).view
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise HttpError(400, f"The body is not understood: {error}", "body") from None
        pushed = asyncio.get_running_loop().run_in_executor(self._threads, self._pushed, request, name, content)
        return Response(await pushed)

    def _pushed(self, request: Request, name: str, content: bytes) -> dict[str, Any]:
        from mlops_ray.features.online.push import push, view_named

        champion = self._follower.traffic.champion.schema.feature_project
        if champion is None:
            raise HttpError(404, f"{self._use_case} reads no features from an online store, so there is nothing to do.")
        definitions = self._of(champion)
        if definitions is None:
            raise HttpError(404, f"The definitions of feature project {champion} are not below the artifact root.")
        try:
            view = view_named(definitions.views, name, champion)
        except DataError as error:
            raise HttpError(400, str(error), "view") from None
        if (champion, name) not in self._bodies:
            self._bodies[champion, name] = PushBody(view)
        rows = self._bodies[champion, name].decode(content)
        assert request.principal is not None
        by, now = request.principal.id, datetime.fromtimestamp(self._clock(), UTC)
        projects = {champion: definitions, **self._others(champion, view)}
        given = name, rows, by, request.request_id, now
        try:
            first, *_ = [push(self._settings, project, found, *given) for project, found in projects.items()]
        except DataError as error:
            raise HttpError(400, str(error), "rows") from None
        return {
            "model": self._use_case,
            "request_id": request.request_id,
            "view": name,
            "rows": first.rows,
            "written": first.written,
            "older": first.older,
            "digest": first.digest,
            "projects": list(projects),
        }

    def _others(self, champion: str, view: View) -> dict[str, Definitions]:
        """The projects of the other versions, where they have the view with the same keys and fields."""
        projects = {served.schema.feature_project for served in self._follower.versions()} - {None, champion}
        found = {project: self._of(project) for project in sorted(filter(None, projects))}
        return {
            project: definitions
            for project, definitions in found.items()
            if definitions and any((one.name, one.types) == (view.name, view.types) for one in definitions.views)
        }

    def _of(self, project: str) -> Definitions | None:
        if project not in self._definitions:
            definitions = load_definitions(Artifacts(self._settings.artifacts), project)
            if definitions is None:
                return None
            self._definitions[project] = definitions
        return self._definitions[project]
