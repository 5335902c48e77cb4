"""Contracts in the Open Data Contract Standard (Bitol, version 3.2): sources written as one, and read from one.

What the standard has a word for stands there under its word. What only this project means goes beside it, as a custom
property of the vendor `mlops_ray`, which comes back whole. What neither can say is listed.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pydantic
import yaml

from mlops_ray.errors import DataError, UseCaseError
from mlops_ray.use_case import Column, Expectations, Source
from mlops_ray.use_case.expectations import Check, NeverFalls, References, Unique

if TYPE_CHECKING:
    from open_data_contract_standard.model import CustomProperty, OpenDataContractStandard, SchemaObject, SchemaProperty

VENDOR, VERSION = "mlops_ray", "v3.2.0"
_LOGICAL = {"text": "string", "integer": "integer", "number": "number", "boolean": "boolean", "timestamp": "timestamp"}
_IN_WORDS = ("name", "type", "nullable", "minimum", "maximum", "choices", "pattern")
_CHECKS: Mapping[str, type[NeverFalls] | type[References]] = {"neverFalls": NeverFalls, "references": References}
_OF_SOURCE = ("path", "delimiter", "quote", "encoding", "header", "keep", "keep_by")
_OF_EXPECTATIONS = ("max_change", "max_quarantined", "max_unreadable_files")
# What describes and rules nothing.
_DESCRIBES = {
    "id",
    "name",
    "description",
    "businessName",
    "synonyms",
    "tags",
    "examples",
    "physicalType",
    "physicalName",
}
_DESCRIBES |= {"authoritativeDefinitions", "customProperties", "criticalDataElement", "semanticType", "context"}
_READ = {"logicalType", "logicalTypeOptions", "required", "primaryKey", "primaryKeyPosition", "enum", "quality"}
_READ |= {"properties", "unique"}


@dataclass(frozen=True)
class Contract:
    """Sources by name, and in sentences what was left out on the way."""

    sources: Mapping[str, Source]
    left_out: tuple[str, ...]


def write_contract(
    name: str, sources: Mapping[str, Source], owner: str = "", purpose: str = ""
) -> tuple[str, list[str]]:
    """The sources as YAML, and in sentences what the standard cannot say of them."""
    from open_data_contract_standard.model import Description, OpenDataContractStandard, Team, TeamMember

    contract = OpenDataContractStandard(
        apiVersion=VERSION,
        kind="DataContract",
        id=name,
        name=name,
        version="1.0.0",
        status="active",
        description=Description(purpose=purpose) if purpose else None,
        team=Team(members=[TeamMember(username=owner, role="owner")]) if owner else None,
        schema=[_schema(source_name, source) for source_name, source in sources.items()],
        slaProperties=[sla for source_name, source in sources.items() for sla in _age(source_name, source)] or None,
    )
    return contract.to_yaml(), [sentence for name, source in sources.items() for sentence in _unsaid(name, source)]


def read_contract(text: str) -> Contract:
    """The sources of a contract in YAML. Raises DataError if it is none, or one of its columns contradicts itself."""
    from open_data_contract_standard.model import OpenDataContractStandard

    try:
        contract = OpenDataContractStandard.from_string(text)
    except (yaml.YAMLError, pydantic.ValidationError, TypeError) as error:
        raise DataError(f"This is no contract in the Open Data Contract Standard: {error}") from None
    if not contract.schema_:
        raise DataError("The contract has no schema, so that there is no source in it. Give it a schema.")
    left_out: list[str] = []
    try:
        sources = {str(schema.name): _source(schema, contract, left_out) for schema in contract.schema_}
    except UseCaseError as error:
        raise DataError(f"The contract cannot be kept: {error}") from None
    if contract.servers:
        left_out.append("servers: where the data lie is said by the data folder, and below it by `path`.")
    return Contract(sources, tuple(left_out))


def code_of(contract: Contract) -> str:
    """A Python file that declares the sources, with what was left out as comments."""
    lines = ['"""Sources of a contract in the Open Data Contract Standard."""', "", "import datetime", ""]
    lines += ["from mlops_ray import Column, Source", ""]
    lines += ["from mlops_ray.use_case.expectations import Expectations, NeverFalls, References, Unique", ""]
    lines += [f"# Left out: {' '.join(sentence.split())}" for sentence in contract.left_out]
    return "\n".join([*lines, f"sources = {_call(dict(contract.sources))}"]) + "\n"


def _schema(name: str, source: Source) -> "SchemaObject":
    from open_data_contract_standard.model import DataQuality, SchemaObject

    expects = source.expects
    rules: list[dict[str, Any]] = [
        {"metric": "duplicateValues", "mustBe": 0, "arguments": {"properties": list(check.columns)}}
        for check in expects.checks
        if isinstance(check, Unique)
    ]
    if expects.min_rows is not None:
        rules.append({"metric": "rowCount", "mustBeGreaterOrEqualTo": expects.min_rows})
    custom = {field: getattr(source, field) for field in _OF_SOURCE} | {"quote": source.quote or ""}  # null is no value
    custom |= {field: getattr(expects, field) for field in _OF_EXPECTATIONS}
    blank = {**_defaults(Source), **_defaults(Expectations)}
    checks = [check for check in expects.checks if not isinstance(check, Unique)]
    return SchemaObject(
        name=name,
        physicalType="files" if source.path else "table",
        properties=[_property(column, source.key) for column in source.columns],
        quality=[DataQuality.model_validate(rule) for rule in rules] or None,
        customProperties=_custom({field: value for field, value in custom.items() if value != blank.get(field)})
        + [_one_custom(_word(type(check)), _plain(vars(check))) for check in checks],
    )


def _property(column: Column, key: tuple[str, ...]) -> "SchemaProperty":
    from open_data_contract_standard.model import EnumValue, SchemaProperty

    options: dict[str, Any] = {"minimum": column.minimum, "maximum": column.maximum}
    options["pattern"] = None if column.pattern is None else f"^(?:{column.pattern})$"
    blank = Column(column.name, column.type)
    ours = {f.name: getattr(column, f.name) for f in fields(Column) if f.name not in _IN_WORDS}
    return SchemaProperty(
        name=column.name,
        logicalType=_LOGICAL[column.type],
        logicalTypeOptions={name: value for name, value in options.items() if value is not None} or None,
        required=not column.nullable,
        primaryKey=True if column.name in key else None,
        primaryKeyPosition=key.index(column.name) + 1 if column.name in key else None,
        enum=[EnumValue(value=choice) for choice in column.choices] or None,
        classification="personal" if column.personal else None,
        customProperties=_custom({name: value for name, value in ours.items() if value != getattr(blank, name)})
        or None,
    )


def _age(name: str, source: Source) -> list[Any]:
    from open_data_contract_standard.model import ServiceLevelAgreementProperty

    age = source.expects.max_age
    seconds = None if age is None else age.total_seconds()
    return (
        []
        if age is None
        else [ServiceLevelAgreementProperty(property="freshness", value=seconds, unit="s", element=name)]
    )


def _unsaid(name: str, source: Source) -> Iterator[str]:
    for field in ("derived", "rules"):
        for of in getattr(source, field):
            yield f"{name}: {field} {of!r} is an expression of polars."
    if source.known_at is not None:
        yield f"{name}: known_at is an expression of polars."
    for asked in source.last_known:
        yield f"{name}: last_known of {asked.column!r} is a repair among rows."
    if source.reader is not None:
        yield f"{name}: its reader, {type(source.reader).__name__}, says how rows are reached, and nothing of them."
    for part in set(source.key) - {column.name for column in source.columns}:
        yield f"{name}: {part!r} of its key is derived."


def _source(schema: "SchemaObject", contract: "OpenDataContractStandard", left_out: list[str]) -> Source:
    name, given = str(schema.name), _ours(schema.customProperties)
    properties = schema.properties or []
    keys = sorted((p.primaryKeyPosition or 0, at, str(p.name)) for at, p in enumerate(properties) if p.primaryKey)
    checks: list[Check] = []
    limits: dict[str, Any] = {field: given[field] for field in _OF_EXPECTATIONS if field in given}
    for quality in schema.quality or []:
        columns = (quality.arguments or {}).get("properties")
        if quality.metric == "duplicateValues" and quality.mustBe == 0 and columns:
            checks.append(Unique(tuple(columns)))
        elif quality.metric == "rowCount" and quality.mustBeGreaterOrEqualTo is not None:
            limits["min_rows"] = int(quality.mustBeGreaterOrEqualTo)
        else:
            left_out.append(f"{name}: the quality rule {_shown(quality)}.")
    checks += [
        _CHECKS[str(one.property)](**_tuples(one.value))
        for one in schema.customProperties or []
        if one.vendor == VENDOR and one.property in _CHECKS
    ]
    for sla in contract.slaProperties or []:
        if sla.element == name and sla.property == "freshness" and sla.unit in _UNITS:
            limits["max_age"] = timedelta(**{_UNITS[sla.unit]: float(str(sla.value))})
        elif sla.element in (None, name):
            left_out.append(f"{name}: the service level {_shown(sla)}.")
    columns = tuple(column for one in properties if (column := _column(name, one, checks, left_out)) is not None)
    left_out += [f"{name}: {word}." for word in sorted(_words(schema) - _DESCRIBES - _READ)]
    of_source: dict[str, Any] = {
        field: None if given[field] == "" else given[field] for field in _OF_SOURCE if field in given
    }
    if "path" not in of_source:
        of_source["path"] = f"{name}*"
        left_out.append(f"{name}: it does not say which files have the rows; path={of_source['path']!r} is a guess.")
    known = {column.name for column in columns}
    key = tuple(part for *_, part in keys if part in known)
    return Source(columns=columns, key=key, expects=Expectations(**limits, checks=tuple(checks)), **of_source)


_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def _column(source: str, given: "SchemaProperty", checks: list[Check], left_out: list[str]) -> Column | None:
    types = {logical: type_ for type_, logical in _LOGICAL.items()}
    place = f"{source}.{given.name}"
    if given.logicalType not in types:
        left_out.append(f"{place}: its logical type {given.logicalType}, and with it the column.")
        return None
    options = dict(given.logicalTypeOptions or {})
    pattern = options.pop("pattern", None)
    low, high = options.pop("minimum", None), options.pop("maximum", None)
    left_out += [f"{place}: {name} {value!r}." for name, value in options.items()]
    left_out += [f"{place}: the quality rule {_shown(rule)}." for rule in given.quality or []]
    left_out += [f"{place}: {word}." for word in sorted(_words(given) - _DESCRIBES - _READ - {"classification"})]
    ours = _tuples(_ours(given.customProperties))
    if given.classification and "personal" not in ours:
        left_out.append(f"{place}: its classification, {given.classification!r}; see Column.personal.")
    if given.unique:
        checks.append(Unique((str(given.name),)))
    column = Column(str(given.name), types[given.logicalType], nullable=not given.required)  # type: ignore[arg-type]
    choices = tuple(str(value.value) for value in given.enum or [])
    return replace(column, minimum=low, maximum=high, pattern=_whole(pattern), choices=choices, **ours)


def _whole(pattern: str | None) -> str | None:
    """A pattern for the whole text from one that is looked for within it."""
    if pattern is None or (pattern.startswith("^(?:") and pattern.endswith(")$")):
        return pattern and pattern[4:-2]
    if pattern.startswith("^") and pattern.endswith("$"):
        return pattern[1:-1]
    return f"(?s:.*)(?:{pattern})(?s:.*)"


def _words(given: pydantic.BaseModel) -> set[str]:
    return set(given.model_dump(exclude_none=True, exclude_defaults=True))


def _shown(given: pydantic.BaseModel) -> str:
    return ", ".join(f"{name} {value!r}" for name, value in given.model_dump(exclude_none=True).items())


def _word(type_: type) -> str:
    return next(word for word, known in _CHECKS.items() if known is type_)


def _custom(values: Mapping[str, Any]) -> list["CustomProperty"]:
    return [_one_custom(name, _plain(value)) for name, value in values.items()]


def _one_custom(name: str, value: Any) -> "CustomProperty":
    from open_data_contract_standard.model import CustomProperty

    return CustomProperty(property=name, value=value, vendor=VENDOR)


def _ours(given: "list[CustomProperty] | None") -> dict[str, Any]:
    return {str(one.property): one.value for one in given or [] if one.vendor == VENDOR and one.property not in _CHECKS}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    return {name: _plain(one) for name, one in value.items()} if isinstance(value, dict) else value


def _tuples(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(map(_tuples, value))
    return {name: _tuples(one) for name, one in value.items()} if isinstance(value, dict) else value


def _defaults(type_: type) -> dict[str, Any]:
    return {field.name: field.default for field in fields(type_)}


def _call(value: Any) -> str:
    """A declaration as Python writes it, without what is left at its default."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name!r}: {_call(one)}" for name, one in value.items()) + "}"
    if isinstance(value, tuple):
        return f"({', '.join(map(_call, value))}{',' if len(value) == 1 else ''})"
    if not isinstance(value, Source | Column | Expectations | Check):
        return repr(value)
    given = {field.name: getattr(value, field.name) for field in fields(value)}
    blank = {**_defaults(type(value)), "expects": Expectations(), "derived": {}, "rules": {}}
    kept = [f"{name}={_call(one)}" for name, one in given.items() if one != blank.get(name)]
    return f"{type(value).__name__}({', '.join(kept)})"
