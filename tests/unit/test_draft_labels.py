"""`mlops-ray init` sees of which kind a label is, and what of its values is no label."""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from mlops_ray.errors import ConfigurationError
from mlops_ray.exploration.raw_sample import accepted_rows
from mlops_ray.features.labelled import labelled_rows
from mlops_ray.ingestion.sources import find_files
from mlops_ray.tasks.binary import Binary
from mlops_ray.tasks.multiclass import MultiClass
from mlops_ray.tasks.regression import Regression
from mlops_ray.training.candidates import LinearRegression, LogisticRegression
from mlops_ray.use_case import BetterThanBaseline, UseCase, load_use_case
from tests.unit.test_scaffold import init

ROWS = 2_000


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def drafted(label: Callable[[int], object], *more: str) -> tuple[UseCase, str]:
    """The use case that is written around rows with these labels, and what was told."""
    days = [date(2024, 1, 1) + timedelta(days=n * 200 // ROWS) for n in range(ROWS)]
    rows = [f"N{n},{day},{n * 7 % 31},{label(n * 7919 % ROWS)}" for n, day in enumerate(days)]
    Path("rows.csv").write_text("\n".join(["id,at,size,y", *rows]) + "\n")
    told = init("odd", "--data", "rows.csv", "--label", "y", "--time", "at", *more)
    return load_use_case("odd/use_cases/odd.py"), told


def labels(case: UseCase) -> pl.Series:
    """The labels of the rows that the written contract accepts."""
    source = case.sources["rows"]
    rows = accepted_rows(find_files(str(Path.cwd()), "rows", source), source, 10 * ROWS)
    return labelled_rows(case, rows, datetime(2030, 1, 1, tzinfo=UTC))["label"]


def test_several_names_are_classes_and_the_most_frequent_is_the_first() -> None:
    case, _ = drafted(lambda n: ("won", "won", "lost", "open")[n % 4])
    assert isinstance(case.label.task, MultiClass)
    assert (case.label.task.classes[0], set(case.label.task.classes)) == ("won", {"won", "lost", "open"})
    assert (case.metric, type(case.candidates[0])) == ("log_loss", LogisticRegression)
    assert BetterThanBaseline("log_loss") in case.gates
    assert labels(case).n_unique() == 3


def test_a_number_is_regression_and_has_to_be_better_than_no_model() -> None:
    case, _ = drafted(lambda n: n / 4)
    assert (case.label.task, case.metric) == (Regression(), "root_mean_squared_error")
    assert isinstance(case.candidates[0], LinearRegression)
    assert BetterThanBaseline("root_mean_squared_error") in case.gates


def test_numbers_with_a_far_end_are_predicted_by_their_median() -> None:
    case, told = drafted(lambda n: n / 4 if n else 1_000_000)
    assert (case.label.task, case.metric) == (Regression(estimand="median"), "mean_absolute_error")
    assert "y goes from 0.25 to 1e+06" in told


def test_words_and_infinity_among_numbers_are_no_labels_and_no_row_is_refused() -> None:
    case, told = drafted(lambda n: {0: "unknown", 1: "inf", 2: "NaN", 3: ""}.get(n % 40, n / 4))
    assert case.label.task == Regression()
    assert labels(case).len() == ROWS * 36 // 40
    assert "200 rows have no y: they are not learned from." in told


def test_a_few_whole_numbers_are_names_unless_somebody_says_amounts() -> None:
    case, told = drafted(lambda n: n % 3)
    assert case.label.task == MultiClass(("0", "1", "2"))
    assert "y has 3 numbers, taken for names. Amounts are --task regression." in told
    assert set(labels(case)) == {"0", "1", "2"}


def test_a_person_overrules_what_the_values_say() -> None:
    case, _ = drafted(lambda n: n % 3, "--task", "regression")
    assert case.label.task == Regression()
    assert labels(case).dtype == pl.Float64


def test_one_of_several_numbers_can_be_the_yes() -> None:
    case, _ = drafted(lambda n: n % 3, "--positive", "2")
    assert case.label.task == Binary()
    assert labels(case).sum() == sum(n % 3 == 2 for n in range(ROWS))


def test_spellings_are_one_class() -> None:
    case, told = drafted(lambda n: ("Won", "won ", "LOST", "open")[n % 4])
    assert set(labels(case)) == {"won", "lost", "open"}
    assert "4 spellings of y are 3 values without upper case." in told


def test_two_words_in_several_spellings_are_yes_or_no() -> None:
    case, _ = drafted(lambda n: ("Gone", "gone", "HERE", "here", "here")[n % 5])
    assert case.label.task == Binary()
    assert labels(case).sum() == ROWS * 2 // 5


def test_classes_too_rare_for_a_part_of_the_time_are_left_out_and_named() -> None:
    case, told = drafted(lambda n: "opne" if n in (3, 9) else ("won", "lost", "open")[n % 3])
    assert set(labels(case)) == {"won", "lost", "open"} == set(case.label.task.classes)  # type: ignore[union-attr]
    assert labels(case).len() == ROWS - 2
    for said in ("'opne'", "is it 'open'?", '.replace({"opne": "other"})'):
        assert said in told


def test_rare_classes_that_are_enough_together_are_one_class() -> None:
    case, told = drafted(
        lambda n: f"rare{n % 1000 // 4}" if n % 1000 < 40 * 4 and n % 4 == 0 else ("won", "lost")[n % 2]
    )
    assert set(labels(case)) == {"won", "lost", "other"}
    assert "They are one class, 'other'" in told


def test_two_classes_with_enough_rows_are_yes_or_no() -> None:
    case, told = drafted(lambda n: "unknown" if n < 20 else ("yes", "no")[n % 2])
    assert case.label.task == Binary()
    assert (labels(case).len(), labels(case).sum()) == (ROWS - 20, ROWS // 2 - 10)
    assert "'unknown' (" in told


def test_classes_that_all_are_rare_are_no_label() -> None:
    with pytest.raises(ConfigurationError, match="has no two classes with enough rows"):
        drafted(lambda n: f"c{n % 40}" if n < 400 else "")


def test_the_yes_that_is_asked_for_counts_in_every_spelling() -> None:
    case, _ = drafted(lambda n: ("Won", "won", "lost", "open")[n % 4], "--positive", "won")
    assert labels(case).sum() == ROWS // 2


# The label is asked for by another number than the row's: back to that.
BACK = pow(7919, -1, ROWS)


@pytest.mark.parametrize(
    "label", [lambda size, n: size * 10 + n % 10, lambda size, n: ("low", "mid", "high")[size // 11]]
)
def test_a_column_that_tells_the_outcome_is_no_feature(label: Callable[[int, int], object]) -> None:
    case, told = drafted(lambda n: label(n * BACK % ROWS * 7 % 31, n))
    assert "size" not in case.features_of_request()
    assert "left out: size (It alone ranks the rows" in told


def test_a_no_can_be_what_is_predicted() -> None:
    case, _ = drafted(lambda n: ("yes", "No", "no")[n % 3], "--positive", "no")
    assert labels(case).sum() == ROWS - sum(n % 3 == 0 for n in range(ROWS))


@pytest.mark.parametrize("more", [(), ("--task", "binary"), ("--task", "multiclass"), ("--task", "regression")])
@pytest.mark.parametrize(
    ("label", "said"),
    [
        (lambda n: f"2024-01-0{1 + n % 2}T00:00:00Z", "moments"),
        (lambda n: "x", "one value alone"),
        (lambda n: "", "no values"),
    ],
)
def test_what_is_no_label_is_refused(label: Callable[[int], object], said: str, more: tuple[str, ...]) -> None:
    with pytest.raises(ConfigurationError, match=f"--label 'y' has {said}: nothing to predict"):
        drafted(label, *more)


def test_texts_among_numbers_that_are_too_many_are_named() -> None:
    with pytest.raises(ConfigurationError, match=r"667 of its values are no numbers \('w0'.*are they meant to be"):
        drafted(lambda n: f"w{n}" if n % 3 == 0 else n)


def test_a_class_that_nobody_has_seen_is_quarantined_by_the_written_contract() -> None:
    case, _ = drafted(lambda n: f"c{n % 20}")
    column = next(column for column in case.sources["rows"].columns if column.name == "y")
    assert len(column.choices) == 20


def test_a_number_that_is_no_class_is_quarantined_by_the_written_contract() -> None:
    case, _ = drafted(lambda n: n % 3)
    column = next(column for column in case.sources["rows"].columns if column.name == "y")
    assert (column.minimum, column.maximum) == (0, 2)


def test_a_yes_that_a_part_of_the_time_lacks_is_said() -> None:
    _, told = drafted(lambda n: "yes" if n < 4 else "no")
    assert "period say yes to y: a metric of so few says more about chance" in told
