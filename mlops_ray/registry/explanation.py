"""Explanation: how much each feature moved one answer away from what the model answers on average."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ROUNDS = 2
_CELLS = 4_000_000  # of the rows that are asked about at once

Ask = Callable[[NDArray[np.float32], NDArray[np.object_]], NDArray[np.float64]]


@dataclass(frozen=True)
class Inputs:
    """What a model takes for some rows: `numbers` float32 [rows, numbers], `categories` text [rows, categories]."""

    numbers: NDArray[np.float32]
    categories: NDArray[np.object_]

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def features(self) -> int:
        return int(self.numbers.shape[1] + self.categories.shape[1])


@dataclass(frozen=True)
class Explanation:
    """`contributions` [features] or [features, outputs], numbers before categories; `errors` their standard errors.

    The model's answer is `base`, its mean over the background, plus the sum of the contributions, to rounding.
    """

    base: NDArray[np.float64]
    contributions: NDArray[np.float64]
    errors: NDArray[np.float64]


def explain(ask: Ask, row: Inputs, background: Inputs, seed: int = 0, rounds: int = ROUNDS) -> Explanation:
    """The Shapley values of one row's features, against rows of what is usual.

    What a set of features is worth is the mean answer over the background where they have the row's values and the
    others those of the background (interventional; Lundberg and Lee, "A unified approach to interpreting model
    predictions", NIPS 2017). Values are sampled by permutations (Castro, Gomez and Tejada, "Polynomial calculation of
    the Shapley value based on sampling", Computers & Operations Research 36, 2009), each with its reverse (antithetic;
    Mitchell, Cooper, Frank and Holmes, "Sampling permutations for Shapley value estimation", JMLR 23, 2022). Deviation:
    each row of the background gets as many permutations as any other, `rounds`, so that the error is that of the order
    alone: an additive model is explained without any, as all orders say the same.

    ask: the model's answers, [rows] or [rows, outputs], on the scale where contributions add up, such as log odds.
    row: of one row. errors: of the sampling, from how the rounds differ; what the background leaves out is not in them.
    The same arguments give the same values. It asks about 2 * rounds * len(background) * (features - 1) rows.
    """
    if rounds < 2:
        raise ValueError(f"rounds is {rounds}; two or more tell how far the values are from right.")
    random = np.random.default_rng(seed)
    own, usual = ask(row.numbers, row.categories)[0], ask(background.numbers, background.categories)
    found = np.array([_one_round(ask, row, background, own, usual, random) for _ in range(rounds)])
    spread = found.var(axis=0, ddof=1).sum(axis=0) / rounds
    return Explanation(usual.mean(axis=0), found.mean(axis=(0, 1)), np.sqrt(spread) / len(background))


def _one_round(
    ask: Ask,
    row: Inputs,
    background: Inputs,
    own: NDArray[np.float64],
    usual: NDArray[np.float64],
    random: np.random.Generator,
) -> NDArray[np.float64]:
    """What each feature adds, by one permutation and its reverse for each row of the background: [background, ...]."""
    features = row.features
    order = random.permuted(np.tile(np.arange(features), (len(background), 1)), axis=1)
    place = order.argsort(axis=1)
    parts = []
    for some in _pieces(len(background), features):
        # [background, direction, step, feature]: what has the row's value after a step on the way from one to the other
        steps = np.arange(1, features)[:, None]
        ranks = place[some, None, None, :]
        taken = np.concatenate([ranks < steps, ranks >= features - steps], axis=1)
        answers = _asked(ask, row, background, some, taken)
        start = np.broadcast_to(usual[some, None, None], (*answers.shape[:2], 1, *own.shape))
        end = np.broadcast_to(own, start.shape)
        added = np.diff(np.concatenate([start, answers, end], axis=2), axis=2)
        rows = np.arange(len(added))[:, None]
        forward, backward = added[:, 0][rows, place[some]], added[:, 1][rows, features - 1 - place[some]]
        parts.append((forward + backward) / 2)
    return np.concatenate(parts)


def _asked(ask: Ask, row: Inputs, background: Inputs, some: slice, taken: NDArray[np.bool_]) -> NDArray[np.float64]:
    numbers, rows = row.numbers.shape[1], int(np.prod(taken.shape[:3]))
    mixed = [
        np.where(chosen, given, usual[some, None, None, :]).reshape(rows, given.shape[1])
        for chosen, given, usual in (
            (taken[..., :numbers], row.numbers, background.numbers),
            (taken[..., numbers:], row.categories, background.categories),
        )
    ]
    answers = ask(*mixed)
    return answers.reshape(*taken.shape[:3], *answers.shape[1:])


def _pieces(rows: int, features: int) -> Iterator[slice]:
    """The background in pieces, so that not too much is asked about at once."""
    size = max(1, _CELLS // (2 * features * features))
    return (slice(at, at + size) for at in range(0, rows, size))
