"""The route by which labels come: what was predicted has turned out to be so, or not."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
import polars as pl
from msgspec import UNSET, Meta, UnsetType

from mlops_ray.config import Settings
from mlops_ray.predictions.label_writer import LabelWriter
from mlops_ray.predictions.labels import (
    CLOCKS_DIFFER,
    KEYS,
    KNOWN_AT,
    REQUEST_ID,
    ROW,
    Label,
    LabelKeys,
    key_columns,
    label_column,
    label_keys,
    part_of,
)
from mlops_ray.registry.model_schema import ModelSchema
from mlops_ray.serving.follower import Follower
from mlops_ray.serving.http import HttpError, Request, Response, Route
from mlops_ray.serving.json_body import TypedJson
from mlops_ray.serving.rows import ColumnReader, RowReader

MAX_LABELS, MAX_DAYS = 1_000, 100  # of a request; each day that labels are about is a file on shared storage
_UUID = Annotated[str, Meta(pattern=rf"\A{REQUEST_ID.pattern}\Z")]


class LabelsBody:
    """Reads bodies of `labels` for one model, as rows of a file of labels are read. type: of the labels."""

    def __init__(self, schema: ModelSchema):
        """Labels by keys are refused where the ledger leaves a key column out."""
        columns = key_columns(schema)
        self._keys, self._event_time = RowReader(columns), schema.event_time
        self._names = [column.name for column in columns]
        label = label_column(schema.task)
        self.type = label.type
        self._told = {column.name: ColumnReader(column) for column in (label, REQUEST_ID, ROW, KNOWN_AT)}
        types = {name: reader.canonical_type for name, reader in self._told.items()}
        strict = self._body({**types, "request_id": _UUID}, self._keys.canonical_type)
        self._json = TypedJson(strict, self._body(dict.fromkeys(types, msgspec.Raw), self._keys.any_type))

    def decode(self, content: bytes, now: datetime) -> list[Label]:
        """Raises HttpError 400 naming the first field that is wrong."""
        body = self._json.decode_if_canonical(content)
        labels = None if body is None else self._canonical(body.labels)
        if labels is None:
            labels = self._judged(self._json.any_values(content).labels)
        for number, label in enumerate(labels):
            if label.known_at is not None and label.known_at > now + CLOCKS_DIFFER:
                at = f"labels[{number}].known_at"
                raise HttpError(400, f"{at}: {label.known_at.isoformat()} lies ahead.", at)
        self._expect_few_days(labels, now)
        return labels

    def _expect_few_days(self, labels: Sequence[Label], now: datetime) -> None:
        """Raise HttpError 400 for labels of more days than a request may be about, and of events to come."""
        days = set(part_of(pl.Series([label.request_id for label in labels if not label.keys], dtype=pl.String)))
        for number, label in enumerate(labels):
            if label.keys and (event := label.keys[self._event_time]) is not None:
                if event > now + CLOCKS_DIFFER:
                    at = f"labels[{number}].keys.{self._event_time}"
                    raise HttpError(400, f"{at}: {event.isoformat()} lies ahead.", at)
                days.add(f"{KEYS}{event.date().isoformat()}")
        if len(days) > MAX_DAYS:
            raise HttpError(
                400,
                f"labels: they are about {len(days):,} days; the limit of a request is {MAX_DAYS}. Send them in the "
                f"order of their days, in more requests.",
                "labels",
            )

    def _body(self, types: dict[str, Any], keys: Any) -> type[msgspec.Struct]:
        fields: list[Any] = [("label", types["label"])]
        for name in ("request_id", "row", "known_at"):
            type_ = types[name]
            fields += [(name, type_ if type_ is msgspec.Raw else type_ | UnsetType, UNSET)]
        if self._names:
            fields.append(("keys", keys | UnsetType, UNSET))
        item = msgspec.defstruct("Label", fields, forbid_unknown_fields=True)
        labels = Annotated[list[item], Meta(min_length=1, max_length=MAX_LABELS)]  # type: ignore[valid-type]
        return msgspec.defstruct("Body", [("labels", labels)], forbid_unknown_fields=True)

    def _canonical(self, items: Sequence[Any]) -> list[Label] | None:
        by_keys = _which_have_keys(items)
        keys = self._keys.canonical([items[number].keys for number in by_keys])
        told = {name: self._told[name].canonical(_values(items, name)) for name in ("label", "row", "known_at")}
        if keys is None or None in told.values():
            return None
        return self._labels({**told, "request_id": _values(items, "request_id")}, dict(zip(by_keys, keys, strict=True)))

    def _judged(self, items: Sequence[Any]) -> list[Label]:
        by_keys = _which_have_keys(items)
        told = {}
        for name, reader in self._told.items():
            numbers = [n for n in range(len(items)) if name != "request_id" or n not in by_keys]
            values = _values([items[n] for n in numbers], name, msgspec.Raw(b"null"))
            read = reader.judged(values, [f"labels[{n}].{name}" for n in numbers])
            told[name] = dict(zip(numbers, read, strict=True))
        fields = [f"labels[{number}].keys" for number in by_keys]
        keys = self._keys.judged([items[number].keys for number in by_keys], fields) if by_keys else []
        columns = {name: [found.get(n) for n in range(len(items))] for name, found in told.items()}
        return self._labels(columns, dict(zip(by_keys, keys, strict=True)))

    def _labels(self, told: Mapping[str, Any], keys: Mapping[int, Sequence[Any]]) -> list[Label]:
        rows = zip(told["label"], told["known_at"], told["request_id"], told["row"], strict=True)
        return [
            Label(label, known_at, keys=dict(zip(self._names, keys[number], strict=True)))
            if number in keys
            else Label(label, known_at, request_id.lower(), row or 0)
            for number, (label, known_at, request_id, row) in enumerate(rows)
        ]


def _which_have_keys(items: Sequence[Any]) -> list[int]:
    """The numbers of the labels by keys; the others name a request. Raises HttpError 400 for one that does not."""
    found = []
    for number, item in enumerate(items):
        where, keys = f"labels[{number}]", getattr(item, "keys", UNSET)
        if (item.request_id is UNSET) == (keys is UNSET):
            which = "neither" if keys is UNSET else "both"
            raise HttpError(400, f"{where}: give either 'request_id' or 'keys', not {which}.", where)
        if keys is not UNSET:
            if item.row is not UNSET:
                raise HttpError(400, f"{where}.row: a row belongs to a request_id, not to keys.", f"{where}.row")
            found.append(number)
    return found


def _values(items: Sequence[Any], name: str, absent: Any = None) -> list[Any]:
    return [absent if (value := getattr(item, name)) is UNSET else value for item in items]


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
        self._writer.append(labels, keys, body.type)
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
            keys = label_keys(champion.schema, self._settings)
            self._known = champion.digest, LabelsBody(champion.schema), keys
        return self._known[1], self._known[2]
