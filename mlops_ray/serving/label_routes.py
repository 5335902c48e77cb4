"""The route by which labels come: what was predicted has turned out to be so, or not."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from mlops_ray.config import Settings
from mlops_ray.predictions.label_writer import LabelWriter
from mlops_ray.predictions.labels import Label, LabelKeys, key_columns, label_keys
from mlops_ray.registry.model_schema import ModelSchema
from mlops_ray.serving.follower import Follower
from mlops_ray.serving.http import HttpError, Request, Response, Route
from mlops_ray.serving.validation import MAX_ROWS, column_type, decode_json, expect_plausible_year, struct_of

MAX_LABELS = 1_000
UUID_PATTERN = "^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$"
# Clocks differ, but a label that is known only next week would be taken for later than any correction.
_CLOCKS_DIFFER = timedelta(days=1)


class LabelsBody:
    """Reads bodies of `labels` for one model."""

    def __init__(self, schema: ModelSchema):
        """Labels by keys are refused where the ledger leaves a key column out."""
        columns = key_columns(schema)
        self._moments = [column.name for column in columns if column.type == "timestamp"]
        keys: list[tuple[str, Any, Any]] = []
        if columns:
            keys = [("keys", struct_of("keys", {c.name: column_type(c) for c in columns}) | UnsetType, UNSET)]
        item = msgspec.defstruct(
            "Label",
            [
                ("label", bool | None),
                ("request_id", Annotated[str, Meta(pattern=UUID_PATTERN)] | UnsetType, UNSET),
                ("row", Annotated[int, Meta(ge=0, lt=MAX_ROWS)] | UnsetType, UNSET),
                ("known_at", Annotated[datetime, Meta(tz=True)] | UnsetType, UNSET),
                *keys,
            ],
            forbid_unknown_fields=True,
        )
        labels = Annotated[list[item], Meta(min_length=1, max_length=MAX_LABELS)]  # type: ignore[valid-type]
        self._type = msgspec.defstruct("Body", [("labels", labels)], forbid_unknown_fields=True)
        self._decoder = msgspec.json.Decoder(self._type)
        self._names = [column.name for column in columns]

    def decode(self, content: bytes, now: datetime) -> list[Label]:
        """Raises HttpError 400 naming the first field that is wrong."""
        body: Any = decode_json(content, self._decoder, self._type)
        return [self._label(item, f"labels[{number}]", now) for number, item in enumerate(body.labels)]

    def _label(self, item: Any, where: str, now: datetime) -> Label:
        given = getattr(item, "keys", UNSET)
        if (item.request_id is UNSET) == (given is UNSET):
            which = "neither" if given is UNSET else "both"
            raise HttpError(400, f"{where}: give either 'request_id' or 'keys', not {which}.", where)
        known_at = None if item.known_at is UNSET else item.known_at.astimezone(UTC)
        if known_at is not None:
            expect_plausible_year(known_at, f"{where}.known_at")
            if known_at > now + _CLOCKS_DIFFER:
                raise HttpError(400, f"{where}.known_at: {known_at.isoformat()} lies ahead.", f"{where}.known_at")
        if given is UNSET:
            row = 0 if item.row is UNSET else item.row
            return Label(item.label, known_at, item.request_id.lower(), row)
        if item.row is not UNSET:
            raise HttpError(400, f"{where}.row: a row belongs to a request_id, not to keys.", f"{where}.row")
        keys = dict(zip(self._names, msgspec.structs.astuple(given), strict=True))
        for name in self._moments:
            if keys[name] is not None:
                expect_plausible_year(keys[name], f"{where}.keys.{name}")
                keys[name] = keys[name].astimezone(UTC)
        return Label(item.label, known_at, keys=keys)


class LabelRoutes:
    """Labels of one use case: kept before they are confirmed, and read by the schema of the champion.

    A label may come before its prediction is found in the ledger, or for one that never was: that shows later.
    """

    def __init__(self, settings: Settings, use_case: str, follower: Follower, writer: LabelWriter):
        self._settings, self._use_case = settings, use_case
        self._follower, self._writer = follower, writer
        self._known: tuple[str, LabelsBody, LabelKeys] | None = None

    def routes(self) -> dict[str, dict[str, Route]]:
        return {"/labels": {"POST": Route(self._take, "label")}}

    async def _take(self, request: Request) -> Response:
        request.expect_content_type("application/json")
        body, keys = self._of_champion()
        labels = body.decode(await request.body(), datetime.now(UTC))
        self._writer.append(labels, keys)
        answer = {
            "model": self._use_case,
            "request_id": request.request_id,
            "accepted": len(labels),
            "by_keys": sum(label.keys is not None for label in labels),
            "withdrawn": sum(label.label is None for label in labels),
        }
        return Response(answer)

    def _of_champion(self) -> tuple[LabelsBody, LabelKeys]:
        champion = self._follower.traffic.champion
        if self._known is None or self._known[0] != champion.digest:
            keys = label_keys(champion.schema, self._settings.ledger_secret_file)
            self._known = champion.digest, LabelsBody(champion.schema), keys
        return self._known[1], self._known[2]
