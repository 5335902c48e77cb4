"""Predictor: from what a caller sent to answers."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mlops_ray.errors import ConfigurationError, UnavailableError
from mlops_ray.features.online.row import OnlineRow
from mlops_ray.registry.sealed_model import SealedModel
from mlops_ray.serving.on_demand_features import OnDemandFeatures
from mlops_ray.serving.request_features import RequestFeatures

_logger = logging.getLogger(__name__)


class OnlineReader(Protocol):
    """Where the features that a caller does not send come from. It counts what it does, for the metrics.

    missing, stale: feature values that were not there, or too old, by view.
    waits: whether a read may wait, for a network or for who writes; one that does not is over in a millisecond.
    """

    waits: bool
    seconds: float
    reads: int
    missing: dict[str, int]
    stale: dict[str, int]

    def find(self, rows: Sequence[Mapping[str, object]], moments: Sequence[datetime]) -> list[OnlineRow]:
        """For each row of entity keys its features as they were known at its moment.

        Raises UnavailableError if the online store does not answer, IntegrityError if what it has of a row cannot be
        read.
        """
        ...

    def close(self) -> None:
        """Close its connections; it is not asked any more."""
        ...


@dataclass(frozen=True)
class Vectors:
    """Model inputs of some rows, in the order of the ONNX contract: NaN is a missing number, "" a missing category.

    online: what the online store knew of each row; empty where it was not asked, or did not answer.
    degraded: the online store was down, and its features are missing for that reason.
    """

    numbers: NDArray[np.float32]
    categories: NDArray[np.object_]
    online: Sequence[OnlineRow] = ()
    degraded: bool = False

    def __len__(self) -> int:
        return len(self.numbers)

    def part(self, first: int, end: int) -> "Vectors":
        """The rows from `first` up to `end`."""
        return Vectors(self.numbers[first:end], self.categories[first:end], self.online[first:end], self.degraded)


class Predictor:
    """Asks one sealed model. Everything that depends on the model alone is worked out once, here."""

    def __init__(self, sealed: SealedModel, online_reader: OnlineReader | None):
        """Raises ConfigurationError if the model needs online features and there is no reader."""
        schema = sealed.schema
        if schema.feature_service and online_reader is None:
            raise ConfigurationError(
                f"Model {schema.use_case} reads feature service {schema.feature_service!r}, but no online store is set."
            )
        self.sealed = sealed
        self.reader = online_reader if schema.feature_service else None
        self.waits = self.reader is not None and self.reader.waits
        self._numbers, self._categories = schema.named("number"), schema.named("category")
        self._copied = [name for name in schema.request_features if schema.column_of(name) is not None]
        computed = {name: e for name, e in schema.expressions().items() if name not in self._copied}
        columns = {column.name: column.dtype for column in schema.request_columns}
        self._computed = RequestFeatures(list(computed.values()), columns)
        self._on_demand = OnDemandFeatures(schema) if schema.on_demand_features else None

    def close(self) -> None:
        """Let go of the online store's connections."""
        if self.reader is not None:
            self.reader.close()

    def vectors_of_keys(self, rows: Sequence[Mapping[str, Any]], moments: Sequence[datetime]) -> Vectors:
        """Features of validated request rows (column name -> value), each as known at its moment; may wait for the
        store.

        Raises UnavailableError if the store does not answer, unless the use case takes its features as missing then,
        and IntegrityError if what it has of a row cannot be read.
        """
        computed = self._computed.of(rows)
        online, degraded = self._online(rows, moments)
        known = [found.values for found in online] or [{}] * len(rows)
        features = [
            {**found, **{name: row[name] for name in self._copied}, **values}
            for row, found, values in zip(rows, known, computed, strict=True)
        ]
        if self._on_demand is not None:
            features = self._on_demand.added_to(rows, features)
        vectors = self.vectors_of_features(
            [[row.get(name) for name in self._numbers] for row in features],
            [[row.get(name) for name in self._categories] for row in features],
        )
        return Vectors(vectors.numbers, vectors.categories, online, degraded)

    def _online(
        self, rows: Sequence[Mapping[str, Any]], moments: Sequence[datetime]
    ) -> tuple[Sequence[OnlineRow], bool]:
        """What the store knows of each row; and whether it could not be asked."""
        if self.reader is None:
            return (), False
        try:
            return self.reader.find(rows, moments), False
        except UnavailableError as error:
            if self.sealed.schema.serving.store_down != "missing":
                raise
            _logger.debug("Answering without online features: %s", error)
            return (), True

    def vectors_of_features(self, numbers: Sequence[Sequence[Any]], categories: Sequence[Sequence[Any]]) -> Vectors:
        """Full feature vectors, None where missing, in the order of the schema's features of each kind."""
        texts = np.empty((len(numbers), len(self._categories)), dtype=object)
        for row, values in enumerate(categories):
            texts[row] = [value if isinstance(value, str) else _text(value) for value in values]
        matrix = np.array(numbers, dtype=np.float32).reshape(len(numbers), len(self._numbers))
        return Vectors(matrix, texts)

    def answers(self, vectors: Vectors) -> NDArray[np.float32]:
        """The answer to each row, as the model's task has it. Raises ModelError if one cannot be an answer."""
        return self.sealed.model.answers(vectors.numbers, vectors.categories)


def _text(value: Any) -> str:
    """A category as polars would write it when the training set was made."""
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)
