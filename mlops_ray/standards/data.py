"""What is held of the data: contracts that can refuse, personal columns, how long predictions are kept."""

from collections.abc import Iterator, Sequence

from mlops_ray.use_case import UseCase
from mlops_ray.use_case.personal import tells_of_a_person


def contract_ranges(case: UseCase) -> Iterator[str]:
    """Every number of a source has a minimum and a maximum."""
    for name, source in case.sources.items():
        numbers = [column for column in source.columns if column.type in ("integer", "number")]
        if open_ := [column.name for column in numbers if column.minimum is None or column.maximum is None]:
            yield (
                f"source {name!r}: {_some(open_)} may be any number. Say what is possible: minimum= and maximum= of "
                f"the column."
            )


def personal_columns(case: UseCase) -> Iterator[str]:
    """Columns that seem to tell of a person are declared personal."""
    for name, source in case.sources.items():
        columns = [column for column in source.columns if column.personal is None]
        if undeclared := [column.name for column in columns if tells_of_a_person(column.name)]:
            yield (
                f"source {name!r}: {_some(undeclared)} by the name tells of a person and is not declared so. Leave it "
                f'out, or say personal="hash" or "omit".'
            )


def retention(case: UseCase) -> Iterator[str]:
    """Predictions are kept for a stated time."""
    if case.keep_predictions is None:
        yield "its predictions are kept for ever. Say how long: keep_predictions=timedelta(days=…)."


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"{', '.join(names[:5])}{more}"
