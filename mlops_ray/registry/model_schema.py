"""What a sealed model is asked with: the columns of a request, how features follow from them, and their order."""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import polars as pl

from mlops_ray.errors import IntegrityError, UseCaseError
from mlops_ray.tasks.binary import BINARY
from mlops_ray.tasks.stored import task_from_json, task_to_json
from mlops_ray.tasks.task import Task
from mlops_ray.use_case import Column, ColumnType, Feature, FeatureKind, Serving, UseCase

_PLAIN_EXPRESSIONS = {"Column", "Literal", "BinaryExpr", "Cast", "Ternary", "Function", "Alias"}
_FOREIGN_FUNCTIONS = {"AnonymousFunction", "AnonymousAgg", "FfiPlugin", "PythonUdf", "Object"}


@dataclass(frozen=True)
class ModelSchema:
    """All a server must know to ask the model, without a line of the user's code.

    label: name of what is predicted, and task: its kind.
    lead_time_s: how long before `event_time` the prediction is made, in seconds.
    request_columns: what a caller sends for one prediction, `event_time` and `entities` among them.
    request_features: polars expressions over the request columns, as JSON of `Expr.meta.serialize(format="json")`.
    on_demand_features: expressions over the other features (numbers as Float64), entities and `event_time`.
    features: the model's inputs in order; those in neither of both come from `feature_service` online.
    feature_project: the Feast project with the definitions of `feature_service` that the model was trained with.
    polars: the version that wrote the expressions, for whose JSON polars promises nothing; "" before it was recorded.
    """

    use_case: str
    label: str
    entities: tuple[str, ...]
    event_time: str
    lead_time_s: float
    request_columns: tuple[Column, ...]
    request_features: Mapping[str, str]
    features: tuple[Feature, ...]
    feature_service: str | None = None
    feature_project: str | None = None
    serving: Serving = field(default_factory=Serving)
    polars: str = ""
    on_demand_features: Mapping[str, str] = field(default_factory=dict)
    task: Task = BINARY

    def named(self, kind: FeatureKind) -> tuple[str, ...]:
        """Names of the features of one kind, in the order of the model's input."""
        return tuple(feature.name for feature in self.features if feature.kind == kind)

    def column_of(self, feature: str) -> Column | None:
        """The request column that `feature` repeats unchanged, so that the column's rules hold for it too."""
        if self.request_features.get(feature) != pl.col(feature).meta.serialize(format="json"):
            return None
        return next((column for column in self.request_columns if column.name == feature), None)

    def expressions(self) -> dict[str, pl.Expr]:
        """The request features as polars expressions.

        Raises IntegrityError where one would run foreign code, or cannot be read by the polars that is installed.
        """
        return {name: expression_from_json(name, text, self.polars) for name, text in self.request_features.items()}

    def on_demand_expressions(self) -> dict[str, pl.Expr]:
        """The on-demand features as polars expressions. Raises as `expressions` does."""
        return {name: expression_from_json(name, text, self.polars) for name, text in self.on_demand_features.items()}

    def on_demand_columns(self) -> dict[str, pl.DataType]:
        """The columns that on-demand features may be of, with their types: entities and event time as a request has
        them, and features as a model has them."""
        asked = {*self.entities, self.event_time}
        columns = {column.name: column.dtype for column in self.request_columns if column.name in asked}
        given = (feature for feature in self.features if feature.name not in self.on_demand_features)
        return columns | {one.name: pl.Float64() if one.kind == "number" else pl.String() for one in given}

    def personal_features(self) -> frozenset[str]:
        """Names of the features that repeat, or are computed from, a column that tells of a person."""
        personal = {column.name for column in self.request_columns if column.personal is not None}
        if not personal:
            return frozenset()
        computed = self.expressions()
        found = {name for name, one in computed.items() if personal & set(one.meta.root_names())}
        of_those = personal | found
        later = self.on_demand_expressions()
        return frozenset(found | {name for name, one in later.items() if of_those & set(one.meta.root_names())})

    def to_json(self) -> dict[str, Any]:
        """As JSON; without what a model has not and servers of before do not know."""
        found = asdict(self) | {"task": task_to_json(self.task)}
        absent = {"on_demand_features": not self.on_demand_features, "task": self.task == BINARY}
        return {name: part for name, part in found.items() if not absent.get(name, False)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "ModelSchema":
        """The schema from what `to_json` gave. Raises IntegrityError if parts are missing or unknown."""
        try:
            columns = (_column_from_json(column) for column in value["request_columns"])
            features = (Feature(f["name"], f["kind"], tuple(f["categories"])) for f in value["features"])
            parts = {
                **value,
                "entities": tuple(value["entities"]),
                "request_columns": tuple(columns),
                "features": tuple(features),
                "serving": Serving(**value.get("serving", {})),
                "task": task_from_json(value.get("task")),
            }
            return cls(**parts)
        except (KeyError, TypeError, UseCaseError) as error:
            raise IntegrityError(f"schema.json of the sealed model does not fit this version: {error!r}.") from error


def _column_from_json(value: Mapping[str, Any]) -> Column:
    return Column(**{key: _tuples(part) for key, part in value.items()})


def _tuples(part: Any) -> Any:
    return tuple(map(_tuples, part)) if isinstance(part, list) else part


def schema_of(
    use_case: UseCase, features: Sequence[Feature], seen: pl.DataFrame, feature_project: str | None = None
) -> ModelSchema:
    """The schema of a model of `use_case` with these inputs; `seen` are the rows it was trained on.

    A `closed` text column takes the values in `seen` as its choices. A column that the source derives is described
    by its type in `seen`. Raises UseCaseError if a derived one is not there.
    """
    columns = tuple(_request_column(use_case, name, seen) for name in use_case.request_columns())
    expressions = use_case.features_of_request()
    for name, expression in (expressions | dict(use_case.on_demand_features)).items():
        _refuse_foreign_code(name, json.loads(expression.meta.serialize(format="json")), UseCaseError)
    return ModelSchema(
        use_case=use_case.name,
        label=use_case.label.name,
        entities=use_case.entities,
        event_time=use_case.event_time,
        lead_time_s=use_case.lead_time.total_seconds(),
        request_columns=columns,
        request_features={name: part.meta.serialize(format="json") for name, part in expressions.items()},
        features=tuple(features),
        feature_service=use_case.feature_service,
        feature_project=feature_project,
        serving=use_case.serving,
        polars=pl.__version__,
        task=use_case.label.task,
        on_demand_features={
            name: part.meta.serialize(format="json") for name, part in use_case.on_demand_features.items()
        },
    )


def _request_column(use_case: UseCase, name: str, seen: pl.DataFrame) -> Column:
    column = use_case.sources[use_case.main_source].column(name)
    if column is None:
        if name not in seen.columns:
            raise UseCaseError(
                f"Use case {use_case.name}: request column {name!r} is derived and not in the training set, so its "
                f"type is unknown. Declare it among the source's columns or make it an entity."
            )
        column = Column(name, _type_of(seen.schema[name]), nullable=seen[name].null_count() > 0)
    if name == use_case.event_time:
        return replace(column, type="timestamp", nullable=False, out_of_range="quarantine")
    if column.closed and name in seen.columns:
        choices = tuple(sorted(seen[name].drop_nulls().unique().cast(pl.String).to_list()))
        # A default that no row of training had is none that the model knows: then a value must be given.
        return replace(column, choices=choices, default=column.default if column.default in choices else None)
    return column


def _type_of(dtype: pl.DataType) -> ColumnType:
    if dtype == pl.Boolean:
        return "boolean"
    if dtype.is_integer():
        return "integer"
    if dtype.is_numeric():
        return "number"
    return "timestamp" if dtype.is_temporal() else "text"


def expression_from_json(name: str, text: str, written_by: str = "") -> pl.Expr:
    """A polars expression read from JSON. written_by: the version of polars that wrote it, for the message.

    Only columns, literals, arithmetic, comparisons, casts, conditions and polars' own functions are read. Anything
    else could run a pickled Python function or load a shared library: IntegrityError.
    """
    try:
        node = json.loads(text)
    except ValueError as error:
        raise IntegrityError(f"Request feature {name!r} in schema.json is not JSON: {error}") from error
    _refuse_foreign_code(name, node, IntegrityError)
    try:
        return pl.Expr.deserialize(io.StringIO(text), format="json").alias(name)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, ValueError) as error:
        raise IntegrityError(
            f"Request feature {name!r} in schema.json cannot be read: {error}. It was written by polars "
            f"{written_by or '(an older mlops_ray did not record which)'}, and here is {pl.__version__}. Install the "
            f"polars that wrote it, or train and seal the model again with this one."
        ) from error


def _refuse_foreign_code(name: str, node: Any, error: type[IntegrityError] | type[UseCaseError]) -> None:
    kind = next(iter(node)) if isinstance(node, dict) and len(node) == 1 else f"{node!r:.40}"
    if kind not in _PLAIN_EXPRESSIONS or (found := _names_in(node) & _FOREIGN_FUNCTIONS):
        raise error(
            f"Request feature {name!r} uses {kind if kind not in _PLAIN_EXPRESSIONS else sorted(found)[0]}, which a "
            f"server does not run. Write it with polars' own functions over one row (no Python function, no plugin, "
            f"no aggregation)."
        )
    for child in _inputs(node[kind]):
        _refuse_foreign_code(name, child, error)


def _inputs(body: Any) -> list[Any]:
    """The sub-expressions of one node of polars' JSON."""
    if isinstance(body, list):
        return body[:1]
    if not isinstance(body, dict):
        return []
    inputs = [body[part] for part in ("left", "right", "expr", "predicate", "truthy", "falsy") if part in body]
    return [*inputs, *body.get("input", [])]


def _names_in(node: Any) -> set[str]:
    if isinstance(node, dict):
        return set(node).union(*map(_names_in, node.values()))
    if isinstance(node, list):
        return set().union(*map(_names_in, node))
    return {node} if isinstance(node, str) else set()
