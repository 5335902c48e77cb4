"""What a use case says of itself: whose it is, what it is for, how much depends on it, who looks at it."""

from collections.abc import Iterator

from mlops_ray.use_case import UseCase


def owner(case: UseCase) -> Iterator[str]:
    """Somebody answers for the use case."""
    if not case.owner.strip():
        yield "it has no owner. Give a team or its address: owner=."


def purpose(case: UseCase) -> Iterator[str]:
    """A sentence says what the predictions are for."""
    if len(case.purpose.split()) < 3:
        yield f"its purpose is {case.purpose!r}. Say in a sentence what the predictions are for: purpose=."


def limits(case: UseCase) -> Iterator[str]:
    """Sentences say what the predictions are not for."""
    if not any(limit.strip() for limit in case.limits):
        yield "nothing says what its predictions are not for. Say so, for the model card: limits=."


def tier(case: UseCase) -> Iterator[str]:
    """It says how much depends on the predictions being right."""
    if case.tier is None:
        yield 'it does not say how much depends on it: tier="low", "medium" or "high".'


def review(case: UseCase) -> Iterator[str]:
    """Somebody looks at the use case as a whole from time to time."""
    if case.review_every is None:
        yield "nobody has to look at it again. Say how often: review_every=timedelta(days=…)."
