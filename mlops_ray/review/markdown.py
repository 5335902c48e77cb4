"""The report as Markdown, as GitHub and GitLab show it in a comment."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from mlops_ray.review.report import Beside, Report, UseCaseReport
from mlops_ray.review.runs import Ran

MARK = "<!-- mlops-ray ci report -->"
_MOST_ROWS = 20
_MOST_CHARACTERS = 60_000  # GitHub takes 65,536 of a comment
# What begins code, emphasis, a link, a tag or a table's edge, and what GitHub or GitLab call somebody by.
_ACTIVE = re.compile(r"[\\`*\[\]<>|&@#!~$^]|(?<!\w)_|_(?!\w)|%(?=\w)|:(?=//)|(?<=www)\.", re.IGNORECASE)
# These are looked for in what is left when Markdown has been read, where an entity is a sign as any other; so something
# invisible stands behind them.
_CALLS = frozenset("@#!~$^%:.")
_INVISIBLE = "&#8203;"


def markdown(report: Report) -> str:
    """The whole comment; too long a one is cut, and says so."""
    sections = [MARK, f"## {'Nothing' if report.ok else 'Something'} stands in the way", *_checks(report)]
    for one in report.use_cases:
        sections += _use_case(one)
    if report.not_run:
        sections.append(f"No pipeline was run: {text(report.not_run)}")
    made = "\n\n".join(sections) + "\n"
    if len(made) <= _MOST_CHARACTERS:
        return made
    return made[:_MOST_CHARACTERS].rsplit("\n", 1)[0] + "\n\nThe report is longer; the job has all of it.\n"


def text(value: str) -> str:
    """A text of people or data as it is: nothing in it is a link, a name that is called, a tag or a table's edge."""
    flat = "".join(one if one.isprintable() else " " for one in value)
    return _ACTIVE.sub(lambda found: f"&#{ord(found[0])};{_INVISIBLE if found[0] in _CALLS else ''}", flat)


def _checks(report: Report) -> Iterator[str]:
    found = report.checked
    warnings = len(found.findings) - found.errors
    rows = [
        ("standards", "passed" if not found.errors else _counted(found.errors, "error"), _counted(warnings, "warning"))
    ]
    if report.tests is None:
        rows.append(("tests", "there are none", ""))
    else:
        rows.append(("tests", "passed" if report.tests.ok else "FAILED", (report.tests.last or ("",))[-1]))
    yield _table(("check", "result", ""), rows)
    if found.findings:
        points = [(one.severity, one.rule, one.use_case or "", one.sentence) for one in found.findings]
        yield _folded(f"{_counted(len(points), 'finding')} of the standards", _table(("", "rule", "of", ""), points))
    if report.tests is not None and not report.tests.ok:
        yield _folded("The end of the tests", _said(report.tests))


def _use_case(one: UseCaseReport) -> Iterator[str]:
    yield f"## {text(one.name)}"
    if not one.ran.ok or one.beside is None:
        yield "The pipeline did not get to its end."
        yield _said(one.ran)
        return
    yield _standing(one.beside)
    yield _metrics(one.beside)
    gates = [("passed" if gate["passed"] else "FAILED", gate["sentence"]) for gate in one.summary["gates"]]
    if gates:
        yield _table(("gate", ""), gates)
    if one.beside.slices:
        yield _folded(f"{one.beside.metric} of {len(one.beside.slices)} slices", _slices(one.beside))
    yield _data(one.beside)
    yield _cost(one)
    if one.summary["doubts"]:
        yield "Doubts: " + " ".join(text(doubt) for doubt in one.summary["doubts"])


def _standing(found: Beside) -> str:
    if found.same:
        return f"The change makes the same model as the live one (version {found.version} of this run)."
    if found.live is None:
        return f"It makes version {found.version}. There is no other to compare it with; `--base` names a revision."
    why = f" They could not be compared on the same rows: {text(found.why_not)}" if found.why_not else ""
    return f"It makes version {found.version}, beside version {found.live}, which is live.{why}"


def _metrics(found: Beside) -> str:
    if found.live is None:
        return _table(("metric", "this"), [(row.name, _estimate(row.this)) for row in found.metrics])
    rows = []
    for row in found.metrics:
        paired = row.paired and row.paired.difference
        shown = {"value": paired.value, "low": paired.low, "high": paired.high} if paired else None
        rows.append((row.name, _estimate(row.this), _estimate(row.live), _estimate(shown, signed=True), row.said))
    return (
        _table(("metric", "this", "live", "better by (on the same rows)", ""), rows)
        + "\n\nIn brackets: 95 % intervals. *this* and *live* are each on its own test period."
    )


def _slices(found: Beside) -> str:
    def moved(one: Sequence[Any]) -> float:
        return -abs(one[2]["value"] - one[3]["value"]) if one[3] else 0.0

    ordered = sorted(found.slices, key=moved)
    rows = [(f"{one[0]} = {one[1]}", _estimate(one[2]), _estimate(one[3])) for one in ordered[:_MOST_ROWS]]
    left = f"\n\n{len(ordered) - _MOST_ROWS} more, which moved less." if len(ordered) > _MOST_ROWS else ""
    return _table(("slice", "this", "live"), rows) + left


def _data(found: Beside) -> str:
    if found.live is None:
        return "The data has nothing to be compared with."
    if not found.data:
        return "The data is the same, or nothing in it has moved."
    points = "\n".join(f"- {text(sentence)}" for sentence in found.data[:_MOST_ROWS])
    left = f"\n- … {len(found.data) - _MOST_ROWS} more" if len(found.data) > _MOST_ROWS else ""
    return f"The data has changed:\n\n{points}{left}"


def _cost(one: UseCaseReport) -> str:
    steps = {step: seconds for step, seconds in one.summary["steps_s"].items() if step != "serve"}
    before = (one.base or {}).get("steps_s", {})
    rows = [
        (step, f"{seconds:.1f}", f"{before[step]:.1f}" if step in before else "") for step, seconds in steps.items()
    ]
    total = (f"{sum(steps.values()):.1f}", f"{sum(before.get(step, 0) for step in steps):.1f}" if before else "")
    reused = f" Reused: {', '.join(one.summary['reused'])}." if one.summary["reused"] else ""
    table = _table(("step", "seconds", "before"), [*rows, ("all", *total)])
    return _folded(f"What it took: {total[0]} s, {one.summary['trials']} trials.{reused}", table)


def _estimate(value: Mapping[str, Any] | None, signed: bool = False) -> str:
    if value is None or value["value"] is None:
        return ""
    form = "+.4f" if signed else ".4f"
    if value.get("low") is None:
        return f"{value['value']:{form}}"
    return f"{value['value']:{form}} ({value['low']:{form}} to {value['high']:{form}})"


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    return "\n".join([*lines, *(f"| {' | '.join(text(cell) for cell in row)} |" for row in rows)])


def _folded(summary: str, body: str) -> str:
    return f"<details><summary>{text(summary)}</summary>\n\n{body}\n\n</details>"


def _said(ran: Ran) -> str:
    return "\n".join(["<pre>", *(text(line) for line in ran.last), "</pre>"])
