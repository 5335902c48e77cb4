"""Declarations: what a use case says, as texts that are equal when it says the same."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlops_ray.artifacts import digest_json
from mlops_ray.use_case import Candidate, Source, UseCase


def declarations(use_case: UseCase) -> dict[str, str]:
    """What a model's content depends on beside the data, by name: short texts as they are, long ones as digests."""
    case = use_case
    request = {
        name: expression.meta.serialize(format="json") for name, expression in case.features_of_request().items()
    }
    label = [case.label.name, *(e.meta.serialize(format="json") for e in (case.label.value, case.label.known_at))]
    return {
        **{f"source {name}": digest_json(declared_source(source)) for name, source in case.sources.items()},
        **{f"feature view {name}": digest_json(source_text(view)) for name, view in case.feature_views.items()},
        **{f"candidate {one.name}": _candidate_code(one) for one in case.candidates},
        "request features": digest_json(request),
        "label": digest_json(label),
        "entities": ", ".join(case.entities),
        "event time": case.event_time,
        "lead time": str(case.lead_time),
        "feature service": str(case.feature_service),
        "split": str(case.split),
        "search seed": str(case.search.seed),
        "metric": case.metric,
    }


def _candidate_code(candidate: Candidate) -> str:
    """The digest of its file; its name where it has none, as in a notebook."""
    try:
        return digest_json(source_text(candidate.fit))
    except (OSError, TypeError):
        return type(candidate).__qualname__


def declared_source(source: Source) -> list[Any]:
    expressions = {**source.derived, "known_at": source.known_at}
    texts = {name: e.meta.serialize(format="json") for name, e in expressions.items() if e is not None}
    return [source.path, source.key, repr(source.columns), texts]


def source_text(function: Callable[..., Any]) -> list[str]:
    """The text of the file that defines a function or callable object, and the object's own values."""
    owner = function if inspect.isroutine(function) else type(function)
    file = inspect.getsourcefile(owner)
    text = Path(file).read_text() if file and Path(file).is_file() else inspect.getsource(owner)
    return [text, repr(sorted(vars(function).items()))]
