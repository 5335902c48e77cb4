"""The tree of a trace: everything behind a version, down to the raw files, in lines for a terminal."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from io import StringIO
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.tree import Tree

from mlops_ray.governance.history import Deployment
from mlops_ray.registry.lineage import Lineage
from mlops_ray.registry.trace import IMPORTED
from mlops_ray.show.text import printable
from mlops_ray.tasks.stored import ANSWER_COLUMNS

if TYPE_CHECKING:
    from mlops_ray.registry.trace import Trace

_WIDTH = 10_000  # lines are as long as they are: a digest that is folded cannot be copied


def trace_text(found: "Trace") -> str:
    """The tree as text."""
    lines = StringIO()
    Console(file=lines, highlight=False, width=_WIDTH).print(_tree(found), soft_wrap=True)
    return lines.getvalue().rstrip("\n")


def deployment_line(one: Deployment) -> str:
    """One line about what a version served."""
    until = f"{one.until:%Y-%m-%d %H:%M:%S}" if one.until else "now"
    why = f": {one.reason}" if one.reason else ""
    return printable(
        f"{one.part:9} version {one.version}  {one.share:6.1%}  {one.since:%Y-%m-%d %H:%M:%S} to {until}  "
        f"({one.event} by {one.actor}{why})"
    )


def _tree(found: "Trace") -> Tree:
    record = found.lineage
    tree = Tree(_text(f"{found.asked}"))
    if found.prediction:
        given = found.prediction
        answers = (given[name][:5] for name in ANSWER_COLUMNS if name in given)
        values = ", ".join(" ".join(map(_answer, row)) for row in zip(*answers, strict=True))
        tree.add(_text(f"prediction {values} at {given['time']:%Y-%m-%d %H:%M:%S.%f}Z by the {given['route']}"))
    version = tree.add(_text(f"version {found.use_case}@{found.version}"))
    if found.registered:
        version.add(_text(f"registered {_when(found.registered)} by {found.registered['actor']}"))
        if there := found.registered["payload"].get(IMPORTED):
            was = f"{found.use_case}@{there['version']} of {there['author']}"
            version.add(_text(f"brought from another environment, where it was {was}; bundle {there['bundle']}"))
    _branch(version, "deployments", [deployment_line(one) for one in found.deployments])
    _branch(version, "gates", [f"{_verdict(event)}: {event['reason']}" for event in found.gates])
    _branch(version, "approvals", [_approval(event) for event in found.approvals])
    evaluation = {name: value for name, value in record.evaluation.items() if isinstance(value, Mapping)}
    _branch(version, "evaluation", [_estimate(name, value) for name, value in evaluation.items() if "value" in value])
    version.add(_text(str(record.vulnerabilities.get("sentence", ""))))
    for sentence in found.erased:
        version.add(_text(f"erased since it was trained: {sentence}"))
    _model(version.add(_text(f"sealed model {record.digest}")), record)
    return tree


def _answer(value: float | list[float]) -> str:
    """A column of it, to one row; the probabilities of classes and the quantiles in the order of the model."""
    return f"{value:.4f}" if isinstance(value, float) else f"({', '.join(f'{one:.4f}' for one in value)})"


def _model(model: Tree, record: Lineage) -> None:
    chosen = _parameters(record.parameters)
    model.add(_text(f"algorithm {record.candidate} ({chosen}), seed {record.seed}, {record.threads} threads"))
    trials = [
        f"{one.trial_id} {one.status} {_number(one.value)} ({_parameters(one.parameters)}), run {one.run}"
        for one in record.trials
    ]
    ended = f", ended by {record.search['ended_by']}" if record.search.get("ended_by") else ""
    start = record.search.get("started_from", {}).get("version")
    begun = f", started from version {start}" if start else ""
    search = f"search {record.parent_run} by {record.metric}{begun}{ended}, chosen trial {record.trial_run}"
    _branch(model, search, trials)
    code = [
        f"commit {record.commit}",
        f"mlops_ray {record.framework}",
        f"files of mlops_ray {record.code}",
        f"lock file {record.lock_file}",
        f"Python {record.python} on {record.platform}",
    ]
    _branch(model, "code", code)
    data = model.add(_text(f"training set {record.training_set} ({record.training_rows:,} rows as of {record.as_of})"))
    views = [f"feature view {name} {digest}" for name, digest in record.feature_rows.items()]
    _branch(data, f"feature service {record.feature_service}, definitions {record.feature_definitions}", views)
    snapshot = data.add(_text(f"snapshot {record.snapshot}, contract {record.contract}"))
    for source, files in record.source_files.items():
        counts = record.rows.get(source, {})
        _branch(
            snapshot,
            f"source {source}: {counts.get('rows_in', 0):,} rows from {record.data}",
            [f"{name} sha256 {digest}" for name, digest in files.items()],
        )


def _branch(tree: Tree, title: str, leaves: Iterable[str]) -> None:
    branch = tree.add(_text(title))
    found = list(leaves)
    for leaf in found or ["none"]:
        branch.add(_text(leaf))


def _approval(event: Mapping[str, Any]) -> str:
    why = f": {event['reason']}" if event["reason"] else ""
    return f"{_when(event)} {event['type'].removeprefix('approval.')} by {event['actor']}{why}"


def _verdict(event: Mapping[str, Any]) -> str:
    return str(event["type"]).partition(".")[2]


def _when(event: Mapping[str, Any]) -> str:
    return f"{datetime.fromisoformat(event['time']):%Y-%m-%d %H:%M:%S}Z"


def _estimate(name: str, value: Mapping[str, Any]) -> str:
    interval = "" if value.get("low") is None else f" ({value['low']:.4f} to {value['high']:.4f})"
    return f"{name} {value['value']:.4f}{interval}"


def _parameters(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {_number(value)}" for name, value in values.items())


def _number(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _text(text: str) -> str:
    return escape(printable(text))
