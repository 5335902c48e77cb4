"""The result of a backtest for people: a table for the terminal, and a page with a chart that needs no network."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from html import escape
from math import floor, isfinite, log10
from statistics import fmean

from rich.table import Table

from mlops_ray.retraining.backtest import Backtest, PolicyReport, Run
from mlops_ray.tasks.estimate import Estimate
from mlops_ray.tasks.evaluation import metric_words
from mlops_ray.tasks.stored import metric_named

_HEADERS = ("difference (95 %)", "worst week", "retrainings", "of them better", "CPU hours", "alarms")
# Told apart also by those who do not see red or green (Okabe and Ito, 2008).
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 960, 420, 56, 16, 16, 64


def headers(result: Backtest) -> tuple[str, ...]:
    return "policy", _metric(result), *_HEADERS


def _metric(result: Backtest) -> str:
    return metric_words(result.policies[0].runs[0].metric)


def table(result: Backtest) -> Table:
    found = Table(title=_title(result))
    for header in headers(result):
        found.add_column(header, justify="left" if header == "policy" else "right")
    for report in result.policies:
        found.add_row(*cells(report))
    return found


def cells(report: PolicyReport) -> tuple[str, ...]:
    """A row of the table, in the order of `headers`: means over the seeds, the worst week of all, and what was counted
    with each seed."""
    weeks = [w.quality.value for run in report.runs for w in run.weeks if isfinite(w.quality.value)]
    worst = min(weeks, key=metric_named(report.runs[0].metric).gain, default=float("nan"))
    return (
        report.policy,
        f"{fmean(run.quality.value for run in report.runs):.4f}",
        "" if report.difference is None else _difference(report.difference),
        f"{worst:.3f}",
        _each(len(run.retrainings) for run in report.runs),
        _each(run.promoted for run in report.runs),
        f"{fmean(run.cpu_hours for run in report.runs):.3f}",
        _each(len(run.alarms) for run in report.runs),
    )


def blind_lines(report: PolicyReport) -> list[str]:
    """A line for each question that the policy listens to and that could raise no alarm for some champion."""
    spots = [one for run in report.runs for one in run.blind]
    first = {one.question: one for one in reversed(spots)}
    return [
        f"{report.policy}: no alarm on {question} was possible with {sum(one.question == question for one in spots)} "
        f"champions, the first of {spot.since:%Y-%m-%d}. {spot.why}"
        for question, spot in sorted(first.items())
    ]


def page(result: Backtest) -> str:
    """One HTML file: the chart of weekly quality, the table, and what each policy did when."""
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells(one))}</tr>" for one in result.policies)
    head = "".join(f"<th>{escape(header)}</th>" for header in headers(result))
    details = "".join(_details(report) for report in result.policies)
    note = (
        f"Each point is the {_metric(result)} of one week with the first seed; the band is its 95 % interval, as if "
        "rows were independent. A tick "
        "below is a retraining: full if its challenger became champion, hollow if not. A challenger that is better "
        "takes over at once here, as if it were approved that moment. The candidate and its parameters were chosen by "
        f"what was known at the start, with {len(result.chosen)} seeds. A difference is their mean; its interval is "
        "for other days and other seeds. Labels came when they were recorded as known."
    )
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(_title(result))}</title>'
        f"<style>{_STYLE}</style></head><body><h1>{escape(_title(result))}</h1>{chart(result)}<p>{note}</p>"
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{details}</body></html>"
    )


_STYLE = (
    "body{font:15px/1.45 system-ui,sans-serif;max-width:1000px;margin:2em auto;padding:0 1em;color:#222}"
    "table{border-collapse:collapse;margin:1em 0}td,th{padding:.3em .7em;border-bottom:1px solid #ddd;text-align:right}"
    "td:first-child,th:first-child{text-align:left}h1{font-size:1.3em}h2{font-size:1.1em;margin:1.2em 0 .3em}"
    "svg{width:100%;height:auto}li{margin:.3em 0}"
)


def chart(result: Backtest) -> str:
    """Weekly quality of every policy, as SVG."""
    weeks = [week for report in result.policies for week in report.runs[0].weeks]
    values = [week.quality.value for week in weeks if isfinite(week.quality.value)]
    low, high = min(values, default=0.5), max(values, default=1.0)
    # Of shares the same margin always; of an error, which has a unit, a part of what there is.
    is_share = metric_named(result.policies[0].runs[0].metric).highest <= 1
    margin = 0.03 if is_share else 0.1 * (high - low or abs(high) or 1.0)
    low, high = low - margin, high + margin
    plot = _Plot(result.start, result.end, low, high)
    parts = [plot.grid(), _text(_LEFT, _TOP - 4, f"{_metric(result)} of each week")]
    for number, report in enumerate(result.policies):
        parts.append(_drawn(plot, report.policy, report.runs[0], _COLOURS[number % len(_COLOURS)], number))
    label = escape(_title(result))
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


class _Plot:
    """From moments and values to points of the drawing."""

    def __init__(self, start: datetime, end: datetime, low: float, high: float):
        self._start, self._span = start, (end - start).total_seconds()
        self._low, self._high = low, high

    def x(self, moment: datetime) -> float:
        share = min(1.0, max(0.0, (moment - self._start).total_seconds() / self._span))
        return round(_LEFT + share * (_WIDTH - _LEFT - _RIGHT), 1)

    def y(self, value: float) -> float:
        share = min(1.0, max(0.0, (value - self._low) / (self._high - self._low)))
        return round(_HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM), 1)

    def grid(self) -> str:
        """Lines at round values, and the first of each month."""
        parts, step = [], _round_step(self._high - self._low)
        for number in range(floor(self._low / step) + 1, floor(self._high / step) + 1):
            y, said = self.y(number * step), f"{number * step:,.{0 if step >= 1 else max(2, -floor(log10(step)))}f}"
            parts.append(f'<path d="M{_LEFT} {y}H{_WIDTH - _RIGHT}" stroke="#ddd"/>{_text(8, y + 4, said)}')
        month = self._start.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        while (month - self._start).total_seconds() < self._span:
            if month >= self._start:
                x = self.x(month)
                parts.append(f'<path d="M{x} {_TOP}V{_HEIGHT - _BOTTOM}" stroke="#eee"/>')
                parts.append(_text(x, _HEIGHT - _BOTTOM + 16, f"{month:%b %Y}" if month.month == 1 else f"{month:%b}"))
            month = month.replace(year=month.year + month.month // 12, month=month.month % 12 + 1)
        return "".join(parts)


def _round_step(span: float) -> float:
    """1, 2 or 5 times a power of ten, of which there are at most ten in `span`; of some tenths 0.05."""
    if 0.05 <= span <= 0.6:
        return 0.05
    power: float = 10.0 ** floor(log10(span / 10))
    return next(factor * power for factor in (1, 2, 5, 10, 20) if span <= 10 * factor * power)


def _drawn(plot: _Plot, policy: str, run: Run, colour: str, number: int) -> str:
    weeks = [week for week in run.weeks if isfinite(week.quality.value)]
    points = " ".join(f"{plot.x(week.start)},{plot.y(week.quality.value)}" for week in weeks)
    sure = [week for week in weeks if week.quality.low is not None and week.quality.high is not None]
    upper = [f"{plot.x(w.start)},{plot.y(w.quality.high or 0)}" for w in sure]
    lower = [f"{plot.x(w.start)},{plot.y(w.quality.low or 0)}" for w in reversed(sure)]
    line = _HEIGHT - _BOTTOM + 24
    ticks = "".join(
        f'<rect x="{plot.x(one.at) - 1.5}" y="{line + 4 * number}" width="3" height="8" stroke="{colour}" '
        f'fill="{colour if one.outcome == "better" else "none"}"><title>{escape(f"{one.at:%Y-%m-%d}: {one.outcome}")}'
        "</title></rect>"
        for one in run.retrainings
    )
    legend = f'<rect x="{_LEFT + 150 * number}" y="{_HEIGHT - 14}" width="18" height="4" fill="{colour}"/>'
    return (
        f'<polygon points="{" ".join([*upper, *lower])}" fill="{colour}" opacity="0.1"/>'
        f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>{ticks}{legend}'
        f"{_text(_LEFT + 24 + 150 * number, _HEIGHT - 8, policy)}"
    )


def _text(x: float, y: float, text: str) -> str:
    return f'<text x="{x}" y="{y}" font-size="12" fill="#444">{escape(text)}</text>'


def _details(report: PolicyReport) -> str:
    run = report.runs[0]
    trained = [f"<b>{one.at:%Y-%m-%d}, {one.outcome}</b>: {escape(one.reason)}" for one in run.retrainings]
    alarms = [
        f"<b>{one.raised:%Y-%m-%d} to {f'{one.resolved:%Y-%m-%d}' if one.resolved else 'the end'}</b>: "
        f"{escape(one.title)}"
        for one in run.alarms
    ]
    lists = _listed("Retrainings", trained) + _listed("Alarms", alarms)
    blind = "".join(f"<p>{escape(line)}</p>" for line in blind_lines(report))
    return f"<h2>{escape(report.policy)}</h2>{blind}{lists or '<p>No retraining, no alarm.</p>'}"


def _listed(title: str, items: Sequence[str]) -> str:
    if not items:
        return ""
    return (
        f"<details><summary>{title}: {len(items)}</summary><ul>{''.join(f'<li>{i}</li>' for i in items)}</ul></details>"
    )


def _title(result: Backtest) -> str:
    return (
        f"{result.use_case}: {result.rows:,} predictions from {result.start:%Y-%m-%d} to {result.end:%Y-%m-%d}, "
        f"candidate {', '.join(dict.fromkeys(one.candidate for one in result.chosen))}"
    )


def _each(counts: Iterable[int]) -> str:
    """What was counted with each seed."""
    return ", ".join(str(count) for count in counts)


def _difference(estimate: Estimate) -> str:
    if estimate.low is None:
        return f"{estimate.value:+.4f}"
    return f"{estimate.value:+.4f} ({estimate.low:+.4f} to {estimate.high:+.4f})"
