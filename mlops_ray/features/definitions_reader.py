"""What `definitions.read_definitions` runs in a process of its own: `FOLDER SERVICE ANSWER DECLARED`, the answer a JSON
file, what is declared JSON.

The modules are imported under the names that `feast apply` gives them, with the repository first on the path. One that
does not import matters only where the service needs it: other use cases may have theirs in the same folder.
"""

import ast
import hashlib
import importlib
import json
import sys
import sysconfig
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

from mlops_ray.artifacts import digest_json
from mlops_ray.errors import UseCaseError
from mlops_ray.features.columns import PREDICTION_TIME, RESERVED
from mlops_ray.features.definitions import DeclaredView, Definitions
from mlops_ray.features.feast import (
    VALUE_TYPES,
    Entity,
    FeatureService,
    FeatureView,
    Field,
    FileSource,
    MessageToDict,
    OnDemandFeatureView,
    ValueType,
    from_value_type,
    get_repo_files,
)
from mlops_ray.features.feast_objects import view_of
from mlops_ray.use_case.user_code import user_code

_FEATURES = ("Float64", "Float32", "Int64", "Int32", "Bool", "String")
_KEYS = ("String", "Int64", "Int32")
_LIBRARIES = tuple({sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")})


def read(folder: Path, name: str, declared: Sequence[DeclaredView] = ()) -> Definitions:
    """See `read_definitions`, which hands on what this raises."""
    modules, failed = _imported(folder)
    service = _the_one(modules, FeatureService, name, "Feature service")
    if service is None and not any(view.is_complete for view in declared):
        why = "".join(f" {sentence}." for sentence in failed.values())
        known = sorted({one.name for module in modules.values() for one in _objects(module, FeatureService)})
        raise UseCaseError(f"Feature service {name!r} is not defined in {folder} (it has {', '.join(known)}).{why}")
    made: dict[str, Entity] = {}
    if service is None:
        views = [_declared_view(modules, folder, one, made) for one in declared]
        service = FeatureService(name=name, features=views)
    else:
        views = [_view(modules, projection, name) for projection in service.feature_view_projections]
    entities = {one: made.get(one) or _entity(modules, one, view) for view in views for one in view.entities}
    for view in views:
        _check(view, [entities[one] for one in view.entities])
    used = tuple(map(view_of, views, service.feature_view_projections))
    _expect_unique(name, [view.name for view in views], [one for view in used for one in view.features])
    specs = _specs(service, views, entities)
    return Definitions(name, digest_json(specs), used, specs, _texts(folder, modules, [service, *views]))


def _declared_view(
    modules: Mapping[Path, ModuleType], folder: Path, declared: DeclaredView, made: dict[str, Entity]
) -> FeatureView:
    """The repository's view of that name, or one that is made of the declaration, with those of its entities that the
    repository has not; these go into `made`."""
    view = _the_one(modules, FeatureView, declared.name, "Feature view")
    if view is not None:
        return view
    if not declared.is_complete:
        raise UseCaseError(
            f"Feature view {declared.name!r} is a function, and {folder} does not define it: its keys, fields and ttl "
            f"are unknown. Define it there as a FeatureView, or declare its windows (windowed_views)."
        )
    entities = []
    for key, type_ in declared.keys.items():
        entity = _the_one(modules, Entity, key, "Entity") or made.get(key)
        if entity is None:
            entity = made[key] = Entity(name=key, join_keys=[key], value_type=VALUE_TYPES[type_])
        if entity.join_key != key:
            raise UseCaseError(
                f"Feature view {declared.name!r} is declared with the key {key!r}, and the entity of that name has the "
                f"join key {entity.join_key!r}. Give one of them another name."
            )
        entities.append(entity)
    return FeatureView(
        name=declared.name,
        entities=entities,
        ttl=timedelta(seconds=declared.ttl_s),
        schema=[
            Field(name=name, dtype=from_value_type(VALUE_TYPES[type_]))
            for name, type_ in [*declared.keys.items(), *declared.features.items()]
        ],
        source=FileSource(name=declared.name, path=f"{declared.name}.parquet", timestamp_field=PREDICTION_TIME),
    )


def _imported(folder: Path) -> tuple[dict[Path, ModuleType], dict[Path, str]]:
    """The modules of the folder by file, and for those that do not import the sentence that says why."""
    sys.path.insert(0, str(folder))
    modules, failed = {}, {}
    for file in get_repo_files(folder) if folder.is_dir() else ():
        relative = file.relative_to(folder)
        name = ".".join(relative.with_suffix("").parts)
        try:
            with user_code(f"Feature definitions {relative}"):
                modules[file] = _import(folder, name)
        except UseCaseError as error:
            failed[file] = str(error)
    return modules, failed


def _import(folder: Path, name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        if "no known parent package" not in str(error):
            raise
    # A file at the top that says `from .entities import …`: then the folder itself is the package.
    package = ModuleType(folder.name)
    package.__path__ = [str(folder)]
    sys.modules.setdefault(folder.name, package)
    return importlib.import_module(f"{folder.name}.{name}")


def _objects(module: ModuleType, kind: type[Any]) -> Iterator[Any]:
    return (value for value in vars(module).values() if isinstance(value, kind))


def _the_one(modules: Mapping[Path, ModuleType], kind: type[Any], name: str, what: str) -> Any | None:
    """The object of that kind and name. Raises UseCaseError if two of the name say different things."""
    found = [(file, one) for file, module in modules.items() for one in _objects(module, kind) if one.name == name]
    if len({json.dumps(_spec(one), sort_keys=True) for _, one in found}) > 1:
        places = ", ".join(sorted({file.name for file, _ in found}))
        raise UseCaseError(
            f"{what} {name!r} is defined more than once, and not alike (in {places}). Give one of them another name, "
            f"or import it from the other to share it."
        )
    return found[0][1] if found else None


def _view(modules: Mapping[Path, ModuleType], projection: Any, service: str) -> FeatureView:
    if projection.view_type == "onDemandFeatureView" or any(
        one.name == projection.name for module in modules.values() for one in _objects(module, OnDemandFeatureView)
    ):
        raise UseCaseError(
            f"Feature service {service!r} reads the on-demand view {projection.name!r}. Declare what it computes among "
            f"the use case's request_features, which training and serving compute alike."
        )
    view = _the_one(modules, FeatureView, projection.name, "Feature view")
    if view is None:
        raise UseCaseError(
            f"Feature service {service!r} reads the view {projection.name!r}, which stands at the top level of no "
            f"module. Give it a name there."
        )
    return view


def _entity(modules: Mapping[Path, ModuleType], name: str, view: FeatureView) -> Entity:
    entity = _the_one(modules, Entity, name, "Entity")
    if entity is None:
        raise UseCaseError(
            f"Feature view {view.name!r}: its entity {name!r} stands at the top level of no module. A view without "
            f"entities cannot be looked up by the keys of a request; give it the entities it is about."
        )
    return entity


def _check(view: FeatureView, entities: Sequence[Entity]) -> None:
    """Complete the types of the keys, as `feast apply` does from the rows, and refuse what no model can take."""
    what, source = f"Feature view {view.name!r}", view.batch_source
    typed = {field.name for field in view.entity_columns}
    for entity in entities:
        if entity.join_key not in typed and entity.value_type is not ValueType.UNKNOWN:
            view.entity_columns.append(Field(name=entity.join_key, dtype=from_value_type(entity.value_type)))
    if untyped := [e.name for e in entities if e.join_key not in {field.name for field in view.entity_columns}]:
        raise UseCaseError(
            f"{what}: entity {untyped[0]!r} has no type. Give it a value_type, such as ValueType.STRING."
        )
    if not view.features:
        raise UseCaseError(f"{what} has no schema, so that the types of its columns are unknown. Declare its fields.")
    if not view.ttl:
        raise UseCaseError(f"{what} has no ttl. Say how long its values stay true.")
    if not isinstance(source, FileSource):
        raise UseCaseError(f"{what} needs a FileSource: its rows are files that the use case's function computes.")
    if source.timestamp_field != PREDICTION_TIME:
        raise UseCaseError(
            f"{what}: timestamp_field is {source.timestamp_field!r}. It must be {PREDICTION_TIME!r}, the moment at "
            f"which the values became known."
        )
    if PREDICTION_TIME in source.field_mapping:
        raise UseCaseError(f"{what} maps {PREDICTION_TIME!r}, which is reserved.")
    for fields, known in ((view.entity_columns, _KEYS), (view.features, _FEATURES)):
        for field in fields:
            if str(field.dtype) not in known:
                raise UseCaseError(
                    f"{what}: column {field.name!r} is defined as {field.dtype}. Use one of {', '.join(known)}; of a "
                    f"moment, for example, the hours since then."
                )
            if field.name in RESERVED:
                raise UseCaseError(f"{what}: column {field.name!r} has a reserved name. Give it another.")


def _expect_unique(service: str, views: Sequence[str], features: Sequence[str]) -> None:
    for what, names in (("view", views), ("feature", features)):
        if repeated := [name for name, count in Counter(names).items() if count > 1]:
            raise UseCaseError(
                f"Feature service {service!r} has the {what} {repeated[0]!r} twice. Give features names that are "
                f"unique, and read each view once."
            )


def _specs(service: FeatureService, views: Sequence[FeatureView], entities: Mapping[str, Entity]) -> dict[str, Any]:
    return {
        "service": _spec(service),
        "views": {view.name: _spec(view) for view in views},
        "entities": {name: _spec(entity) for name, entity in entities.items()},
    }


def _spec(value: FeatureService | FeatureView | Entity) -> dict[str, Any]:
    """Feast's own description of an object, without times and the path of the rows."""
    spec: dict[str, Any] = MessageToDict(value.to_proto(), preserving_proto_field_name=True)["spec"]
    spec.pop("project", None)
    if isinstance(value, FeatureView) and value.batch_source is not None:
        source = spec.pop("batch_source")
        kept = ("timestamp_field", "created_timestamp_column", "field_mapping")
        spec["source"] = {name: source[name] for name in kept if name in source}
    for projection in spec.get("features", []) if isinstance(value, FeatureService) else []:
        for name in ("batch_source", "timestamp_field", "created_timestamp_column"):
            projection.pop(name, None)
    return spec


def _texts(
    folder: Path, modules: Mapping[Path, ModuleType], objects: Sequence[FeatureService | FeatureView]
) -> dict[str, str]:
    """The modules that define these objects, and those of the repository that they import, directly or not; of what is
    made of a declaration there is none."""
    needs = {file: {one for one in _imports(file, folder) if one in modules} for file in modules}
    closures = {file: _closure(file, needs) for file in modules}
    found: set[Path] = set()
    for one in objects:
        holding = [f for f, module in modules.items() if any(o is one for o in _objects(module, type(one)))]
        if holding:  # the one that defines it, and not one that imports it from there
            found |= closures[min(holding, key=lambda file: len(closures[file] & set(holding)))]
    return {str(file.relative_to(folder)): file.read_text() for file in sorted(found)}


def _closure(file: Path, needs: Mapping[Path, set[Path]]) -> set[Path]:
    found, waiting = set(), [file]
    while waiting:
        one = waiting.pop()
        if one not in found:
            found.add(one)
            waiting += needs[one]
    return found


def _imports(file: Path, folder: Path) -> Iterator[Path]:
    """Files that the import statements of a module may mean."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names, base = [alias.name for alias in node.names], folder
        elif isinstance(node, ast.ImportFrom):
            base = file.parents[node.level - 1] if node.level else folder
            start = [node.module] if node.module else []
            names = [*start, *(".".join([*start, alias.name]) for alias in node.names)]
        else:
            continue
        for name in names:
            path = base.joinpath(*name.split("."))
            yield from (path.with_suffix(".py"), path / "__init__.py")


def _outside(folder: Path) -> dict[str, str]:
    """SHA-256 of the user's modules beyond the folder that were imported: what was read depends on them too."""
    ours = str(Path(__file__).parents[1])
    files = {getattr(module, "__file__", None) for module in list(sys.modules.values())}
    mine = [f for f in files if f and f.endswith(".py") and not f.startswith((str(folder), ours, *_LIBRARIES))]
    return {file: hashlib.sha256(Path(file).read_bytes()).hexdigest() for file in mine if Path(file).is_file()}


def main(folder: str, service: str, answer: str, declared: str = "[]") -> None:
    path = Path(folder).resolve()
    views = [DeclaredView(**view) for view in json.loads(declared)]
    try:
        found: dict[str, Any] = {"definitions": asdict(read(path, service, views)), "outside": _outside(path)}
    except UseCaseError as error:
        found = {"error": str(error)}
    Path(answer).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
