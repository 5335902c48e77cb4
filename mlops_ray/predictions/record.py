"""The record of an answered request: what of it is kept, and how it is laid out."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from mlops_ray.errors import ConfigurationError
from mlops_ray.predictions.answers import YES_OR_NO, Layout, layout_of, numbers_in
from mlops_ray.predictions.personal import PersonalHash
from mlops_ray.tasks.task import Task
from mlops_ray.use_case import Column, ColumnType, Feature

Route = Literal["champion", "canary", "asked", "shadow", "batch"]
# Batch scoring answers no caller, and what who operates asks a candidate says nothing about how callers use it.
UNWATCHED: tuple[Route, ...] = ("asked", "batch")
QUESTION_BYTES = 8
_FLOAT32 = np.dtype(np.float32)
_json = msgspec.json.Encoder().encode


class Described(Protocol):
    """What the ledger needs to know of a model; `registry.model_schema.ModelSchema` has it."""

    @property
    def use_case(self) -> str: ...

    @property
    def request_columns(self) -> tuple[Column, ...]: ...

    @property
    def features(self) -> tuple[Feature, ...]: ...

    @property
    def task(self) -> Task: ...

    def column_of(self, feature: str) -> Column | None: ...


class RecordSchema(msgspec.Struct, array_like=True, tag=0, frozen=True):
    """What the records of one version hold, in order: request columns with their types, numbers, categories.

    answer: the columns of the answers; not written before there were others than those of yes and no.
    """

    format: int
    version: str
    keys: tuple[tuple[str, ColumnType], ...]
    numbers: tuple[str, ...]
    categories: tuple[str, ...]
    answer: Layout = YES_OR_NO

    @property
    def columns(self) -> tuple[Any, ...]:
        """What records that make one table have in common."""
        return self.keys, self.numbers, self.categories, self.answer

    def rows_of(self, record: "Record") -> int:
        return len(record.answer) // 4 // numbers_in(self.answer)


class Record(msgspec.Struct, array_like=True, tag=1, frozen=True, gc=False):
    """One answered request of one or many rows. Moments are microseconds since 1970.

    keys: request columns, a list for each row; None where the caller sent features. numbers: float32 [rows, numbers]
    (NaN is missing). categories: texts, row after row ("" is missing). answer: float32, row after row. question: 8
    bytes that tell what was asked from any other question; none where nobody can ask twice. caller: the id of the
    principal who asked. reasons: of each row, as JSON, None where there are none; empty where no row has any.
    """

    version: str
    request_id: str
    time_us: int
    as_of_us: int
    route: Route
    latency_s: float
    keys: list[list[Any]] | None
    numbers: bytes
    categories: list[str]
    answer: bytes
    question: bytes = b""
    caller: str = ""
    reasons: tuple[str | None, ...] = ()


class Recorder:
    """Makes the records of one version. Columns marked personal do not get past it in the clear.

    A request column with `personal="omit"` is left out, and so is the feature that repeats it unchanged; with "hash"
    both are hashed (a number among the features is left out: a hash is no number). A feature that is computed from a
    personal column is the model's input and is kept. So it is with what features contributed, of which nothing is
    hashed. Of what was asked a digest is kept, by the secret as well where a column is personal: of a plain one,
    whoever guesses a name could see that he is right.
    """

    def __init__(self, version: str, model: Described, personal: PersonalHash | None):
        """personal: what hashes. Raises ConfigurationError if a column is to be hashed and it is None."""
        columns = [column for column in model.request_columns if column.personal != "omit"]
        hashed = [column for column in columns if column.personal == "hash"]
        if hashed and personal is None:
            raise ConfigurationError(f"Column {hashed[0].name} is to be hashed, but the ledger has no secret.")
        self._hash = personal if hashed else None
        self._question_hash = personal if has_personal(model) else None
        self._names = [column.name for column in columns]
        self._hashed_keys = [(i, column.type) for i, column in enumerate(columns) if column.personal == "hash"]
        self._rules = rules = {feature.name: _rule_of(model, feature) for feature in model.features}
        numbers = [feature.name for feature in model.features if feature.kind == "number"]
        categories = [feature.name for feature in model.features if feature.kind == "category"]
        self._kept_numbers = _kept(numbers, rules)
        self._kept_categories = _kept(categories, rules)
        left = [name for name in categories if rules[name] != "omit"]
        self._hashed_categories = [i for i, name in enumerate(left) if rules[name] == "hash"]
        self._width = len(left)
        self.schema = RecordSchema(
            format=1,
            version=version,
            keys=tuple((c.name, "text" if c.personal == "hash" else c.type) for c in columns),
            numbers=tuple(name for name in numbers if rules[name] is None),
            categories=tuple(left),
            answer=layout_of(model.task),
        )

    def record(
        self,
        request_id: str,
        time_us: int,
        as_of_us: int,
        route: Route,
        latency_s: float,
        keys: Sequence[Mapping[str, Any]] | None,
        numbers: NDArray[np.float32],
        categories: NDArray[np.object_],
        answer: NDArray[np.float32],
        question: bytes = b"",
        caller: str = "",
        reasons: Sequence[Mapping[str, Any] | None] = (),
    ) -> Record:
        """The record of an answer; see `LedgerWriter.append` for the shapes."""
        if self._kept_numbers is not None:
            numbers = numbers[:, self._kept_numbers]
        if self._kept_categories is not None:
            categories = categories[:, self._kept_categories]
        rows = None if keys is None else [[row.get(name) for name in self._names] for row in keys]
        texts = categories.ravel().tolist()
        if self._hash is not None:
            self._hide(rows, texts, self._hash)
        if question and self._question_hash is not None:
            question = self._question_hash.digest(question)
        return Record(
            self.schema.version, request_id, time_us, as_of_us, route, latency_s, rows,
            _float32_bytes(numbers), texts, _float32_bytes(answer), question[:QUESTION_BYTES], caller,
            tuple(map(self._told, reasons)) if any(reasons) else (),
        )  # fmt: skip

    def _told(self, reasons: Mapping[str, Any] | None) -> str | None:
        if reasons is None:
            return None
        said = {name: value for name, value in reasons["contributions"].items() if self._rules[name] is None}
        return _json({**reasons, "contributions": said}).decode()

    def _hide(self, rows: list[list[Any]] | None, texts: list[str], personal: PersonalHash) -> None:
        for position, type_ in self._hashed_keys:
            for row in rows or ():
                row[position] = personal.hash(row[position], type_)
        for position in self._hashed_categories:
            for at in range(position, len(texts), self._width):
                texts[at] = personal.hash(texts[at], "text") or ""


def _float32_bytes(numbers: NDArray[np.float32]) -> bytes:
    """A conversion of what is float32 already would be a third of the time that a record takes."""
    return (numbers if numbers.dtype == _FLOAT32 else numbers.astype(_FLOAT32)).tobytes()


def has_personal(model: Described) -> bool:
    """Whether a request column is personal: then the ledger's secret is needed."""
    return any(column.personal is not None for column in model.request_columns)


def _rule_of(model: Described, feature: Feature) -> Literal["omit", "hash"] | None:
    column = model.column_of(feature.name)
    if column is None or column.personal is None:
        return None
    return "omit" if feature.kind == "number" else column.personal


def _kept(names: Sequence[str], rules: Mapping[str, str | None]) -> list[int] | None:
    """Positions of what is not left out; None if all is kept."""
    kept = [position for position, name in enumerate(names) if rules[name] != "omit"]
    return kept if len(kept) < len(names) else None
