"""The gates' own error rates: how often each says something of versions where there is nothing to say, and how often it
finds a difference that is there.

    python benchmarks/gates.py [DOCS_FILE]

Everything that is drawn has days that are hard for all models and slices at once, and days on which one model or slice
alone does better or worse, so rows of one day are not independent. Prints tables in Markdown, or writes them into the
file, between its two comments that name this one.
"""

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mlops_ray.evaluation.comparison import compare
from mlops_ray.evaluation.fairness import GroupCounts
from mlops_ray.evaluation.gates import Measured, judge
from mlops_ray.evaluation.slices import SliceEvaluation
from mlops_ray.tasks.binary import BINARY
from mlops_ray.tasks.days import blocks_of
from mlops_ray.tasks.estimate import Estimate, jackknife
from mlops_ray.tasks.evaluation import Evaluation, weights_without
from mlops_ray.tasks.ranking import freedom_by_label, ranking
from mlops_ray.use_case import BetterThanChampion, Fairness, NoSliceWorse

RUNS = 2_000
NOW = datetime(2026, 1, 1, tzinfo=UTC)
DAYS = (2, 3, 5, 7, 10, 20, 50, 200)
SLICES = (1, 2, 5, 10, 20, 50)
GROUPS = (2, 5, 20)
ROWS_A_DAY = 30
SLICE_ROWS = 200
NOISE = 1.0
_Float = NDArray[np.float64]


@dataclass(frozen=True)
class Rows:
    """label, [rows]; scores of the models, [models, rows]; day of each row."""

    label: NDArray[np.bool_]
    scores: _Float
    day: NDArray[np.intp]


def draw(random: np.random.Generator, day: NDArray[np.intp], noise: Sequence[float], odds: float = -1.2) -> Rows:
    """Rows of models that see what makes a label likely, each through noise of its own.

    odds: log odds of the label. A day moves these by a normal with deviation 0.7, and how much a model sees of what it
    should by one with deviation 0.4, apart for each model.
    """
    days = int(day.max()) + 1
    seen = random.normal(size=len(day))
    odds_of_day = odds + 0.7 * random.normal(size=days)
    label = random.random(len(day)) < 1 / (1 + np.exp(-(odds_of_day[day] + 1.5 * seen)))
    skill = 1 + 0.4 * random.normal(size=(len(noise), days))
    scores = skill[:, day] * seen + np.array(noise)[:, None] * random.normal(size=(len(noise), len(day)))
    return Rows(label, scores, day)


def equal_days(days: int, rows: int) -> NDArray[np.intp]:
    return np.arange(days * rows) % days


def unequal_days(random: np.random.Generator, days: int, rows: int) -> NDArray[np.intp]:
    """As many rows, but days of very different size: lognormal, with deviation 0.7 of the logarithm."""
    size = np.exp(0.7 * random.normal(size=days))
    return np.sort(random.choice(days, days * rows, p=size / size.sum()))


@cache
def auc_of(noise: float, odds: float = -1.2) -> float:
    """The ROC AUC of a model over very many days."""
    random = np.random.default_rng(0)
    rows = draw(random, equal_days(40_000, 10), [noise], odds)
    return float(ranking(rows.label.astype(float), rows.scores[0], np.zeros_like(rows.day), np.ones((1, 1)))[0][0])


@cache
def noise_for(gain: float) -> float:
    """With how much noise a ROC AUC is above that with NOISE by `gain`; at most 0.087, which is without any noise."""
    low, high = 0.0, 5.0
    for _ in range(12):
        middle = (low + high) / 2
        low, high = (middle, high) if auc_of(middle) > auc_of(NOISE) + gain else (low, middle)
    return (low + high) / 2


def better(runs: int, days: int, gain: float = 0.0, unequal: bool = False, metric: str = "roc_auc") -> float:
    """How often the gate finds a challenger better than the champion, whose ROC AUC is lower by `gain`."""
    random, found = np.random.default_rng([13, days, unequal]), 0
    noise = (NOISE if gain == 0 else noise_for(gain), NOISE)
    gate = BetterThanChampion(metric=metric)  # type: ignore[arg-type]
    for _ in range(runs):
        day = unequal_days(random, days, ROWS_A_DAY) if unequal else equal_days(days, ROWS_A_DAY)
        rows = draw(random, day, noise)
        if rows.label.all() or not rows.label.any():
            continue
        comparison = compare((BINARY, BINARY), rows.label, rows.scores[0], rows.scores[1], rows.day, gate.metric)
        measured = Measured(BINARY, EVALUATION, comparisons={gate.metric: comparison})
        found += judge([gate], measured, NOW)[0].passed
    return found / runs


def slices_worse(runs: int, days: int, sizes: Sequence[int] = SLICES, loss: float = 0.0) -> dict[int, float]:
    """How often the gate finds a slice worse, by the number of slices, of which each is exactly at the limit.

    loss: by how much the ROC AUC of one of them is below it.
    """
    random, found = np.random.default_rng([17, days]), dict.fromkeys(sizes, 0)
    odds, most = -1.7, 1 if loss else max(sizes)
    gate = NoSliceWorse("roc_auc", auc_of(NOISE, odds) + loss)
    flawless = [replace(FLAWLESS, value=f"flawless {number}") for number in range(max(sizes))]
    day = equal_days(days, -(-SLICE_ROWS // days))[:SLICE_ROWS] if days <= SLICE_ROWS else np.arange(SLICE_ROWS)
    for _ in range(runs):
        rows = draw(random, np.tile(day, most), [NOISE], odds)
        slices = list(_slices(rows, most))
        for size in sizes:
            # With a loss the other slices are well above the limit, and only the first is at fault.
            judged = [*slices, *flawless[: size - 1]] if loss else slices[:size]
            result = judge([gate], Measured(BINARY, EVALUATION, judged), NOW)[0]
            found[size] += result.value is not None and not result.passed
    return {size: count / runs for size, count in found.items()}


def _slices(rows: Rows, slices: int) -> Iterator[SliceEvaluation]:
    for number, part in enumerate(np.split(np.arange(len(rows.label)), slices)):
        truth, block = rows.label[part].astype(np.float64), blocks_of(rows.day[part])
        auc = ranking(truth, rows.scores[0][part], block, weights_without(block))[0]
        estimate = jackknife(float(auc[0]), auc[1:], freedom_by_label(truth, block), 0.0, 1.0)
        yield SliceEvaluation("slice", str(number), _with_roc_auc(estimate))


def unfair(
    runs: int, days: int, groups: int, rate: float = 0.4, limit: float = 0.0, difference: float = 0.0, of: int = 60
) -> float:
    """How often the gate finds the true positive rates of groups further apart than `limit`.

    rate: of all groups but the last, which has more by `difference`. of: rows with the label in each group.
    """
    random, found = np.random.default_rng([19, days, groups]), 0
    gate = Fairness("group", limit)
    names = tuple(map(str, range(groups)))
    rates = np.full(groups, rate) + difference * (np.arange(groups) == groups - 1)
    for _ in range(runs):
        positives = random.multinomial(of, np.full(days, 1 / days), size=groups)
        # Beta with these means: a day moves all groups at once, and each by itself.
        together = random.normal(size=days)[None, :] * 0.7 + random.normal(size=(groups, days)) * 0.7
        moved = _moved(rates, together)
        chosen = random.binomial(positives, moved)
        table, chosen_table = (tuple(map(tuple, part.tolist())) for part in (positives, chosen))
        counts = GroupCounts("group", 0.5, names, table, chosen_table, table, chosen_table)
        result = judge([gate], Measured(BINARY, EVALUATION, counts=[_merged(counts)]), NOW)[0]
        found += result.value is not None and not result.passed
    return found / runs


def _moved(rates: _Float, by: _Float) -> _Float:
    """Rates of each group on each day, with exactly `rates` as their means: half the days up, half down, alike."""
    room = np.minimum(rates, 1 - rates)[:, None]
    moved: _Float = rates[:, None] + room * np.tanh(by) * 0.9
    return moved


def _merged(counts: GroupCounts) -> GroupCounts:
    """The same with days put together into blocks, as an evaluation has them."""
    days = len(counts.rows[0])
    block = blocks_of(np.arange(days))
    merge = [[tuple(np.bincount(block, row).astype(int).tolist()) for row in table] for table in _tables(counts)]
    return GroupCounts(counts.column, counts.threshold, counts.groups, *map(tuple, merge))  # type: ignore[arg-type]


def _tables(counts: GroupCounts) -> tuple[tuple[tuple[int, ...], ...], ...]:
    return counts.rows, counts.chosen, counts.positives, counts.chosen_positives


_NOTHING = Estimate(0.5)
EVALUATION = Evaluation(dict.fromkeys(BINARY.metrics, _NOTHING), 0, 0)


def _with_roc_auc(estimate: Estimate) -> Evaluation:
    return replace(EVALUATION, metrics={**EVALUATION.metrics, "roc_auc": estimate})


FLAWLESS = SliceEvaluation("slice", "", _with_roc_auc(Estimate(1.0, 0.99, 1.0, 0.01, 10.0)))


Table = tuple[str, list[str], list[list[str]]]


def tables(runs: int = RUNS) -> Iterator[Table]:
    """Title, head and rows of each table."""
    yield _better_table(runs)
    yield _slices_table(runs, 0.0, "every slice exactly at the limit (at most 5 %)")
    yield _slices_table(runs, 0.15, "one slice 0.15 below the limit")
    yield _fairness_table(runs)


def _better_table(runs: int) -> Table:
    gains = (0.03, 0.08)
    head = ["days", "equal", "equal, unequal days", "equal, average precision", *(f"AUC +{g:g}" for g in gains)]
    rows = []
    for days in DAYS:
        cells = [better(runs, days), better(runs, days, unequal=True), better(runs, days, metric="average_precision")]
        cells += [better(runs, days, gain) for gain in gains]
        rows.append([str(days), *map(_percent, cells)])
    title = f"`BetterThanChampion`: how often it says better (equal models: at most 2.5 %), {ROWS_A_DAY} rows a day"
    return title, head, rows


def _slices_table(runs: int, loss: float, what: str) -> Table:
    rows = []
    for days in (2, 5, 10, 50, 200):
        found = slices_worse(runs, days, loss=loss)
        rows.append([str(days), *(_percent(found[size]) for size in SLICES)])
    title = f"`NoSliceWorse`, ROC AUC: how often it says worse, {what}; {SLICE_ROWS} rows a slice"
    return title, ["days", *(f"{size} slices" if size > 1 else "1 slice" for size in SLICES)], rows


def _fairness_table(runs: int) -> Table:
    head = ["days", *(f"{groups} groups, all {_percent(rate)}" for rate in (0.4, 0.1) for groups in GROUPS)]
    head += [f"{groups}, one {apart} % apart, limit 10 %" for groups, apart in ((2, 10), (2, 40), (20, 40))]
    rows = []
    for days in DAYS:
        cells = [unfair(runs, days, groups, rate) for rate in (0.4, 0.1) for groups in GROUPS]
        cells += [unfair(runs, days, groups, 0.3, 0.1, apart) for groups, apart in ((2, 0.1), (2, 0.4), (20, 0.4))]
        rows.append([str(days), *map(_percent, cells)])
    title = (
        "`Fairness`, true positive rate: how often it says unfair (at most 5 % but in the last two columns), 60 rows "
        "with the label in each group"
    )
    return title, head, rows


def _percent(share: float) -> str:
    return f"{share:.1%}".replace("%", " %")


def markdown(runs: int = RUNS) -> str:
    lines = []
    for title, head, rows in tables(runs):
        print(title, flush=True)
        lines += ["", f"{title}:", "", f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
        lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([*lines, ""])


def figures() -> Iterator[tuple[str, float, str]]:
    """The largest rates at which a gate says what is not so, over all numbers of days, and what an evaluation takes."""
    yield "better_of_equal", 100 * max(better(RUNS, days) for days in DAYS), "%"
    yield "slice_worse_of_equal", 100 * max(max(slices_worse(RUNS, days, (1, 10)).values()) for days in DAYS[:6]), "%"
    yield "unfair_of_equal", 100 * max(unfair(RUNS, days, groups) for days in DAYS for groups in GROUPS), "%"
    rows = draw(np.random.default_rng(0), np.sort(np.random.default_rng(0).integers(0, 92, 80_000)), (1.0, 1.0))
    started = time.perf_counter()
    compare((BINARY, BINARY), rows.label, rows.scores[0], rows.scores[1], rows.day, "roc_auc")
    yield "compare_80k_s", time.perf_counter() - started, "s"


MARKS = ("<!-- benchmarks/gates.py -->", "<!-- end of benchmarks/gates.py -->")


def main(docs: Path | None) -> None:
    text = markdown()
    if docs is None:
        print(text)
        return
    before, _, rest = docs.read_text().partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    docs.write_text(f"{before}{MARKS[0]}\n{text}\n{MARKS[1]}{after}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
