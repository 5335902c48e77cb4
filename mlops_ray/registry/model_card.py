"""The model card: one page on a version, made from its records alone (after Mitchell et al., "Model Cards for Model
Reporting", 2019), as Markdown and as HTML that loads nothing from elsewhere."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from mlops_ray.evaluation.report import charts
from mlops_ray.registry.card_features import feature_parts
from mlops_ray.registry.trace import Trace
from mlops_ray.show.document import document, table, with_style
from mlops_ray.show.evaluation import STYLE as STYLE
from mlops_ray.tasks.stored import task_from_json


@dataclass(frozen=True)
class _Section:
    """A heading with paragraphs, points and a table under it; `head` and `rows` are empty where there is no table.
    charts: of the table's numbers, as SVG."""

    heading: str
    paragraphs: Sequence[str] = ()
    points: Sequence[str] = ()
    head: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    charts: Sequence[str] = ()


def markdown_card(found: Trace) -> str:
    """The card as Markdown."""
    lines = [
        f"# {_markdown(_title(found))}",
        "",
        *(line for text in _subtitle(found) for line in (_markdown(text), "")),
    ]
    for part in _sections(found):
        lines += [f"## {_markdown(part.heading)}", ""]
        lines += [line for text in part.paragraphs for line in (_markdown(text), "")]
        lines += [*(f"- {_markdown(text)}" for text in part.points), *([""] if part.points else [])]
        if part.rows:
            lines += [_line(part.head), _line(["---"] * len(part.head))]
            lines += [*(_line([_markdown(cell) for cell in row]) for row in part.rows), ""]
    return "\n".join(lines)


def html_card(found: Trace) -> str:
    """The card as one HTML page."""
    return document(_title(found), with_style(card_body(found), STYLE))


def card_body(found: Trace) -> str:
    """The card as a part of a page, with its charts; `STYLE` is theirs."""
    parts = [f"<h1>{escape(_title(found))}</h1>", *(f"<p>{escape(text)}</p>" for text in _subtitle(found))]
    for part in _sections(found):
        parts.append(f"<h2>{escape(part.heading)}</h2>")
        parts += [f"<p>{escape(text)}</p>" for text in part.paragraphs]
        if part.points:
            parts.append(f"<ul>{''.join(f'<li>{escape(text)}</li>' for text in part.points)}</ul>")
        parts += part.charts
        if part.rows:
            parts.append(table(list(map(escape, part.head)), (list(map(escape, row)) for row in part.rows)))
    return "\n".join(parts)


def card_charts(found: Trace) -> dict[str, Sequence[str]]:
    """The charts of the card as HTML, by the heading that they stand below; `STYLE` is theirs."""
    return {part.heading: part.charts for part in _sections(found) if part.charts}


def plain_card(found: Trace) -> dict[str, Any]:
    """The card as plain values, for who lays it out themselves: `title`, `subtitle` (texts), and `sections`, each with
    `heading`, `paragraphs`, `points`, and a table of `head` and `rows`, empty where there is none."""
    return {
        "title": _title(found),
        "subtitle": _subtitle(found),
        "sections": [_plain(part) for part in _sections(found)],
    }


def _plain(part: _Section) -> dict[str, Any]:
    return {name: value for name, value in vars(part).items() if name != "charts"}


def _title(found: Trace) -> str:
    return f"{found.use_case}, version {found.version}"


def _subtitle(found: Trace) -> list[str]:
    lineage = found.lineage
    when = found.registered.get("time", "")[:10]
    registered = f"Registered {when} by {found.registered['actor']}. " if found.registered else ""
    return [
        lineage.purpose or "No purpose is declared.",
        f"Owner: {lineage.owner or 'none declared'}. {registered}Sealed model {lineage.digest[:16]}….",
    ]


def _sections(found: Trace) -> Iterator[_Section]:
    yield _metrics(found)
    yield from _calibration(found)
    yield from _slices(found)
    for part in feature_parts(found.lineage.evaluation):
        yield _Section(part.heading, [part.text], head=part.head, rows=part.rows, charts=part.charts)
    yield _limits(found)
    yield _gates(found)
    yield _approvals(found)
    yield _deployments(found)
    yield _data(found)
    yield _model(found)
    yield _lineage(found)


def _model(found: Trace) -> _Section:
    lineage = found.lineage
    rows = [["algorithm", lineage.candidate]]
    rows += [[name, _number(value)] for name, value in lineage.parameters.items()]
    if fit := lineage.declarations.get("fit"):
        rows.append(["fitted with", fit])
    if limit := lineage.evaluation.get("cut_short_after"):
        rows.append(["cut short", f"the time limit of {limit} was up before the fit ended"])
    if on := lineage.evaluation.get("fitted_on"):
        rows.append(["fitted on", on["words"]])
    if usual := lineage.evaluation.get("usual"):
        rows.append(["taken where missing", ", ".join(f"{name} {_number(value)}" for name, value in usual.items())])
    rows += [["seed", str(lineage.seed)], ["chosen among", f"{len(lineage.trials)} trials by {lineage.metric}"]]
    if looked_at := lineage.search.get("looked_at"):
        rows += [["trials were given", f"about {looked_at:,} rows, evenly in time"]]
    if ended_by := lineage.search.get("ended_by"):
        rows += [["search ended by", ended_by]]
    if start := lineage.search.get("started_from", {}).get("version"):
        rows += [["search started from", f"the best parameters of version {start}"]]
    entities = lineage.declarations.get("entities", "")
    lead = lineage.declarations.get("lead time", "")
    text = f"Asked by {entities}; answered {lead} before {lineage.declarations.get('event time', '')}."
    return _Section("Model", [text] if entities else [], head=["", ""], rows=rows)


def _data(found: Trace) -> _Section:
    lineage = found.lineage
    text = f"{lineage.training_rows:,} rows to learn from and to be judged on, as known at {lineage.as_of}."
    head = ["source", "files", "rows", "accepted", "repaired", "quarantined", "not known yet"]
    rows = [
        [name, str(len(lineage.source_files.get(name, ()))), *(f"{counts[kind]:,}" for kind in _COUNTS)]
        for name, counts in lineage.rows.items()
    ]
    return _Section("Data", [text], head=head, rows=rows)


_COUNTS = ("rows_in", "accepted", "repaired", "quarantined", "not_yet_known")


def _metrics(found: Trace) -> _Section:
    evaluation = found.lineage.evaluation
    task = task_from_json(evaluation.get("task"))
    rows = [
        [name, f"{value['value']:.4f}", _interval(value), "lower" if task.metrics[name].lower_is_better else "higher"]
        for name, value in sorted(evaluation.items(), key=lambda item: (item[0] != found.lineage.metric, item[0]))
        if name in task.metrics
    ]
    text = "On the test period, which neither the search nor the last fit has seen."
    if {"rows", "days"} <= evaluation.keys():
        text = f"{text} {evaluation['rows']:,} rows of {evaluation['days']} days; {task.described(evaluation)}."
    if decision := evaluation.get("decision"):
        text = f"{text} {task.decisions_described(decision)}"
    if uses := _decisions(found):
        text = f"{text} Decisions made on days of it so far, on this and other versions: {uses}."
    drawn = charts(evaluation)
    head = ["metric", "value", "95 % interval", "better"]
    return _Section("Metrics", [text], head=head, rows=rows, charts=[drawn] if drawn else ())


def _calibration(found: Trace) -> Iterator[_Section]:
    """How well probabilities keep their word, before and after; nothing without a calibration."""
    known = found.lineage.evaluation.get("calibration")
    if not known:
        return
    shifts = ", ".join(f"{shift:+.4f}" for shift in known["shifts"])
    text = (
        f"Scores are multiplied by {known['slope']:.4f} and moved by {shifts} ({known['method']}), as found on the "
        f"validation period by a model that had not seen it. After, on the validation period: found on every other day "
        f"and measured on the days between."
    )
    names = ("log_loss", "calibration_error", "calibration_error_debiased")
    rows = [
        [f"{period} period", when, *(f"{known[period][when][name]:.4f}" for name in names)]
        for period in ("validation", "test")
        for when in ("before", "after")
        if when in known[period]
    ]
    bins = known["test"]["after"]["reliability"]
    told = "; ".join(f"{one['probability']:.3f} came true in {one['observed']:.3f}" for one in bins)
    head = ["rows of", "calibration", *(name.replace("_", " ") for name in names)]
    yield _Section("Calibration", [text], [f"On the test period, after, in tenths of the rows: {told}."], head, rows)


def _decisions(found: Trace) -> int | None:
    """How often gates were judged on the test period, as of the last time for this version."""
    of = (event.get("payload", {}).get("test_period") for event in (found.registered, *found.approvals))
    return max((period["decision"] for period in of if period), default=None)


def _slices(found: Trace) -> Iterator[_Section]:
    slices = found.lineage.evaluation.get("slices") or {}
    judged = slices.get("judged", ())
    if not judged:
        return
    metric = found.lineage.metric
    rows = []
    for one in judged:
        value = one["evaluation"][metric]
        where = f"{one['column']} = {one['value'] or '(missing)'}"
        rows.append([where, f"{one['evaluation']['rows']:,}", f"{value['value']:.4f}", _interval(value)])
    left_out = slices.get("left_out", ())
    text = [f"{len(left_out)} slices have too few rows to be judged."] if left_out else []
    yield _Section("Slices", text, head=["slice", "rows", metric, "95 % interval"], rows=rows)


def _limits(found: Trace) -> _Section:
    lineage = found.lineage
    points = [*lineage.limits]
    points.append(f"Nothing after {lineage.as_of[:10]} was known to it.")
    if lineage.code_dirty:
        found_where = "lay in no repository" if lineage.code_version == "unknown" else "differed from its commit"
        points.append(f"It was made by code that {found_where}; only a digest of that code is on record.")
    points.append(str(lineage.vulnerabilities.get("sentence", "No vulnerability scan is on record.")))
    return _Section("Limits", points=points)


def _gates(found: Trace) -> _Section:
    if not found.gates:
        return _Section("Gates", ["It has none."])
    measured = [event["seq"] for event in found.approvals if event["type"] == "version.measured"]
    rows = []
    for event in found.gates:
        counts = event["seq"] > max(measured, default=0)
        result = event["type"].partition(".")[2]
        when = event["time"][:19].replace("T", " ")
        rows.append([result if counts else f"{result}, measured again since", event["reason"], when])
    return _Section("Gates", head=["result", "what was found", "when (UTC)"], rows=rows)


def _approvals(found: Trace) -> _Section:
    if not found.approvals:
        return _Section("Approvals", ["No approval was asked for."])
    rows = [
        [event["time"][:19].replace("T", " "), event["type"].removeprefix("approval."), event["actor"], event["reason"]]
        for event in found.approvals
    ]
    return _Section("Approvals", head=["time (UTC)", "what", "by", "reason"], rows=rows)


def _deployments(found: Trace) -> _Section:
    served = [one for one in found.deployments if one.version == found.version]
    if not served:
        return _Section("Deployments", ["It was never live."])
    rows = [
        [
            one.part,
            f"{one.share:.0%}",
            f"{one.since:%Y-%m-%d %H:%M}",
            f"{one.until:%Y-%m-%d %H:%M}" if one.until else "now",
        ]
        for one in served
    ]
    return _Section("Deployments", head=["part", "share", "from (UTC)", "until (UTC)"], rows=rows)


def _lineage(found: Trace) -> _Section:
    lineage = found.lineage
    rows = [
        ["sealed model", lineage.digest],
        ["lineage record", found.record],
        ["search (MLflow run)", lineage.parent_run],
        ["trial (MLflow run)", lineage.trial_run],
        ["training set", lineage.training_set],
        ["feature service", str(lineage.feature_service)],
        ["feature definitions", lineage.feature_definitions],
        ["snapshot", lineage.snapshot],
        ["contract", lineage.contract],
        ["commit", lineage.commit],
        ["mlops_ray", lineage.framework],
        ["lock file", lineage.lock_file],
        ["environment", f"Python {lineage.python} on {lineage.platform}"],
    ]
    rows += [[name, digest] for files in lineage.source_files.values() for name, digest in files.items()]
    return _Section("Lineage", ["Digests are SHA-256."], head=["what", "which"], rows=rows)


def _interval(value: Mapping[str, Any]) -> str:
    return "" if value.get("low") is None else f"{value['low']:.4f} to {value['high']:.4f}"


def _number(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _markdown(text: str) -> str:
    """Text that Markdown shows as it is: nothing in it is a tag, a link or the end of a cell."""
    for mark in "\\`*_[]<>|#":
        text = text.replace(mark, f"\\{mark}")
    return " ".join(text.split())


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
