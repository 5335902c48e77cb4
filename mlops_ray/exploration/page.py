"""The page: what exploration found, as one HTML file with charts that needs no network, and as parts for a notebook.

All text of the data goes through `escape`; there is no script in the page.
"""

from html import escape
from itertools import pairwise
from typing import TYPE_CHECKING

from mlops_ray.exploration.profile import ColumnProfile, Coverage, Profile
from mlops_ray.show.charts import bars, histogram, volume
from mlops_ray.show.document import table

if TYPE_CHECKING:
    from mlops_ray.exploration.compare import ColumnChange, Comparison
    from mlops_ray.exploration.explore import Exploration
    from mlops_ray.exploration.rank import Ranking

# Of more columns the rest is a line in a table, so that a page of 10,000 can still be opened.
_CHARTED = 200
_TOP = 8
_NAMED_FILES = 20
_RELATED = 40


def profile_html(profile: Profile) -> str:
    return f"<h1>{escape(profile.name)}</h1>{_facts(profile)}{_faults(profile)}{_columns(profile)}"


def exploration_html(found: "Exploration") -> str:
    profile = found.profile
    parts = [f"<h1>{escape(profile.name)}</h1>", _facts(profile), _faults(profile)]
    if found.suspicions:
        rows = [(escape(one.column), one.kind.replace("_", " "), escape(one.reason)) for one in found.suspicions]
        parts.append(f"<h2>Look at these first</h2>{table(('column', 'suspicion', 'why'), rows)}")
    if ranked := [(one.column, one.roc_auc) for one in found.relations if one.roc_auc is not None]:
        groups = {one.column: f" ({one.group})" for one in found.relations if one.group}
        ranked = [(f"{name}{groups.get(name, '')}", auc) for name, auc in ranked]
        of = "; of the class that it tells best" if groups else ""
        parts.append(
            "<h2>How well each column alone tells the label</h2><p><small>ROC AUC of ranking by it: 0.5 says nothing, "
            f"1 all{of}.</small></p>{bars([(name, auc - 0.5, f'{auc:.3f}') for name, auc in ranked[:_RELATED]], 0.5)}"
        )
    return "".join([*parts, "<h2>Columns</h2>", _columns(profile)])


def _columns(profile: Profile) -> str:
    charted, rest = profile.columns[:_CHARTED], profile.columns[_CHARTED:]
    drawn = "".join(map(_charted, charted))
    if not rest:
        return drawn
    heads = ("column", "type", "missing", "different")
    return f"{drawn}<h2>{len(rest):,} more columns</h2>{table(heads, map(_row, rest))}"


def comparison_html(found: "Comparison") -> str:
    said = "".join(f"<li>{escape(sentence)}</li>" for sentence in found.sentences())
    heads = ("column", "was", "is", "missing was", "is", "moved", "size")
    return (
        f"<h1>{escape(found.current)} beside {escape(found.reference)}</h1>"
        f"<p>{found.rows_was:,} rows were, {found.rows_now:,} rows are.</p>"
        f"<ul>{said or '<li>Nothing that matters has changed.</li>'}</ul>{table(heads, map(_change, found.columns))}"
    )


def ranking_html(found: "Ranking") -> str:
    heads = ("", "data set", "fitness", "complete", "fresh", "rows", "moved", *(("model",) if found.by_model else ()))
    rows = []
    for place, one in enumerate(found.candidates, 1):
        cells = [str(place), escape(one.name), f"{one.fitness:.2f}", f"{one.completeness:.1%}"]
        cells += ["" if one.age_days is None else f"{one.age_days:,.0f} days old", f"{one.rows:,}"]
        cells += ["" if one.distance is None else f"{one.distance:.0%}"]
        cells += [("" if one.reached is None else f"{one.reached:.3f}")] if found.by_model else []
        rows.append(tuple(cells))
    said = "".join(f"<li>{escape(sentence)}</li>" for sentence in found.sentences())
    return f"<h1>{escape(found.title)}</h1>{table(heads, rows)}<ul>{said}</ul>"


def _facts(profile: Profile) -> str:
    exact = "" if profile.duplicates_exact else "about "
    facts = [
        (f"{profile.rows:,}", "rows"),
        (f"{len(profile.columns):,}", "columns"),
        (f"{_missing(profile):.1%}", "of the cells have no value"),
        (f"{exact}{profile.duplicates:.1%}", "of the rows are there twice"),
    ]
    return f'<div class="facts">{"".join(f"<span><b>{number}</b>{what}</span>" for number, what in facts)}</div>'


def _missing(profile: Profile) -> float:
    values = sum(column.values for column in profile.columns)
    return 1 - values / profile.cells if profile.cells else 0.0


def _faults(profile: Profile) -> str:
    said = []
    if profile.malformed:
        said.append(f"{profile.malformed:,} records could not be split into columns.")
    if profile.refused:
        reasons = ", ".join(f"{reason} {rows:,}" for reason, rows in list(profile.reasons.items())[:_TOP])
        said.append(f"The contract refuses {profile.refused:,} rows ({reasons}).")
    said += list(profile.unreadable.values())[:_NAMED_FILES]
    if len(profile.unreadable) > _NAMED_FILES:
        said.append(f"{len(profile.unreadable) - _NAMED_FILES} more files cannot be read.")
    return f'<ul class="warn">{"".join(f"<li>{escape(one)}</li>" for one in said)}</ul>' if said else ""


def _charted(column: ColumnProfile) -> str:
    facts = [column.type, f"{column.missing_share:.1%} missing", _different(column)]
    if column.percentiles:
        low, middle, high = (column.percentiles[at] for at in (1, 50, 99))
        facts.append(f"{_number(column.minimum)} to {_number(column.maximum)}, half below {_number(middle)}")
        facts.append(f"98 % from {_number(low)} to {_number(high)}")
    if column.longest is not None and column.type == "text":
        facts.append(f"{column.shortest} to {column.longest} characters")
    if column.untidy:
        facts.append(f"{column.untidy:,} with white space around")
    odd = [f"{rows:,} {what.replace('_', ' ')}" for what, rows in column.odd.items()]
    kinds = (
        [f"{rows:,} {kind.replace('_', ' ')}" for kind, rows in column.kinds.items()] if len(column.kinds) > 1 else []
    )
    listed = "<br>".join(escape(fact) for fact in [*facts, *kinds])
    warned = f'<br><span class="warn">{escape(", ".join(odd))}</span>' if odd else ""
    name = escape(column.name) or "<i>no name</i>"
    return (
        f'<div class="column"><div><h3>{name}</h3><small>{listed}{warned}</small></div>'
        f"<div>{_drawn(column)}</div></div>"
    )


def _drawn(column: ColumnProfile) -> str:
    if column.coverage is not None:
        rows = [(escape(start), f"{rows:,}") for start, rows in column.coverage.volume]
        listed = _folded(table((escape(column.coverage.volume_unit), "rows"), rows))
        drawn = volume(column.coverage.volume, column.coverage.volume_unit)
        return drawn + _gaps(column.coverage) + listed
    if len(column.edges) > 2 and column.different > _TOP:
        counted = zip(pairwise(column.edges), column.histogram, strict=True)
        bins = [(f"{low:.6g}", f"{high:.6g}", f"about {count:,.0f}") for (low, high), count in counted]
        return histogram(column.edges, column.histogram) + _folded(table(("from", "to", "rows"), bins))
    if not column.top:
        return "<small>All values are different.</small>" if column.values else "<small>No value.</small>"
    top = [(value, float(rows), f"{rows / column.rows:.1%}") for value, rows in column.top[:_TOP]]
    more = "" if column.top_exact else f"<small>Each has up to {column.top_error:,} rows more.</small>"
    values = [(escape(value), f"{rows:,}", f"{rows / column.rows:.1%}") for value, rows in column.top[:_TOP]]
    return bars(top, max(rows for _, rows, _ in top)) + more + _folded(table(("value", "rows", "share"), values))


def _folded(body: str) -> str:
    """What a chart says, in words, for who does not see it or wants to copy it."""
    return f"<details><summary>The same as a table</summary>{body}</details>"


def _gaps(coverage: Coverage) -> str:
    facts = f"{coverage.first:%Y-%m-%d %H:%M} to {coverage.last:%Y-%m-%d %H:%M} UTC"
    if not coverage.gaps:
        return f"<small>{facts}; no {coverage.unit} without rows</small>"
    first, last, units = coverage.gaps[0]
    return (
        f"<small>{facts}; {1 - coverage.filled:.1%} of the {coverage.unit}s have no rows, longest gap {units:,} "
        f"{coverage.unit}s from {escape(first)} to {escape(last)}</small>"
    )


def _different(column: ColumnProfile) -> str:
    return f"{'' if column.different_exact else 'about '}{column.different:,} different"


def _row(column: ColumnProfile) -> tuple[str, ...]:
    return escape(column.name), escape(column.type), f"{column.missing_share:.1%}", _different(column)


def _change(one: "ColumnChange") -> tuple[str, ...]:
    moved = ("", "") if one.distance is None else (f"{one.distance.share:.1%}", one.distance.words)
    return escape(one.column), one.was, one.now, f"{one.missing_was:.1%}", f"{one.missing_now:.1%}", *moved


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value == round(value) and abs(value) < 1e15 else f"{value:.4g}"
