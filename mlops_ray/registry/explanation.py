"""Explanation: how much each feature moved one answer away from what the model answers on average."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ROUNDS = 2
_CELLS = 4_000_000  # of the rows that are laid out at once
ASKED_ROWS = 256  # at once: between two questions it looks at the time

Ask = Callable[[NDArray[np.float32], NDArray[np.object_]], NDArray[np.float64]]
Doubt = Callable[[NDArray[np.float64]], NDArray[np.float64]]


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
    """`contributions` [features] or [features, outputs], numbers before categories; `errors`: how far each is off,
    the standard error of the sampling and the most that rounded answers add to it.

    The model's answer is `base`, its mean over the background, plus the sum of the contributions, to rounding.
    """

    base: NDArray[np.float64]
    contributions: NDArray[np.float64]
    errors: NDArray[np.float64]


def explain(
    ask: Ask,
    row: Inputs,
    background: Inputs,
    seed: int = 0,
    rounds: int = ROUNDS,
    ends_at: float = math.inf,
    doubt: Doubt = np.zeros_like,
) -> Explanation:
    """The Shapley values of one row's features, against rows of what is usual.

    What a set of features is worth is the mean answer over the background where they have the row's values and the
    others those of the background (interventional; Lundberg and Lee, "A unified approach to interpreting model
    predictions", NIPS 2017). Values are sampled by permutations (Castro, Gomez and Tejada, "Polynomial calculation of
    the Shapley value based on sampling", Computers & Operations Research 36, 2009), each with its reverse (antithetic;
    Mitchell, Cooper, Frank and Holmes, "Sampling permutations for Shapley value estimation", JMLR 23, 2022). Deviation:
    each row of the background gets as many permutations as any other, `rounds`, so that the error is that of the order
    alone: an additive model is explained without any, as all orders say the same.

    ask: the model's answers, [rows] or [rows, outputs], on the scale where contributions add up, such as log odds.
    row: of one row. doubt: how far answers may be off, as a function of them. errors: of the sampling, from how the
    rounds differ, and of both answers that each difference is of; what the background leaves out is not in them.
    The same arguments give the same values. It asks about at most 2 * rounds * len(background) * (features - 1) rows:
    none for a feature in which row and background are the same; at most `ASKED_ROWS` at a time. ends_at: by the clock
    of `time.monotonic`; raises TimeoutError if it is not done by then.
    """
    if rounds < 2:
        raise ValueError(f"rounds is {rounds}; two or more tell how far the values are from right.")
    random = np.random.default_rng(seed)
    ask = _in_time(ask, ends_at)
    own, usual = ask(row.numbers, row.categories)[0], ask(background.numbers, background.categories)
    of_rounds = [_one_round(ask, doubt, row, background, own, usual, random) for _ in range(rounds)]
    found, unsure = np.stack(of_rounds, axis=1)
    spread = found.var(axis=0, ddof=1).sum(axis=0) / rounds
    errors = np.sqrt(spread) / len(background) + unsure.mean(axis=(0, 1))
    return Explanation(usual.mean(axis=0), found.mean(axis=(0, 1)), errors)


def _in_time(ask: Ask, ends_at: float) -> Ask:
    """The same in pieces, each of which is only begun before the end."""

    def of_piece(numbers: NDArray[np.float32], categories: NDArray[np.object_]) -> NDArray[np.float64]:
        if time.monotonic() >= ends_at:
            raise TimeoutError("The explanation was not done in time.")
        return ask(numbers, categories)

    def in_pieces(numbers: NDArray[np.float32], categories: NDArray[np.object_]) -> NDArray[np.float64]:
        pieces = [slice(at, at + ASKED_ROWS) for at in range(0, len(numbers), ASKED_ROWS)]
        return np.concatenate([of_piece(numbers[some], categories[some]) for some in pieces])

    return in_pieces


def _one_round(
    ask: Ask,
    doubt: Doubt,
    row: Inputs,
    background: Inputs,
    own: NDArray[np.float64],
    usual: NDArray[np.float64],
    random: np.random.Generator,
) -> NDArray[np.float64]:
    """What each feature adds, by one permutation and its reverse for each row of the background, and how far that may
    be off: [2, background, ...]."""
    order = random.permuted(np.tile(np.arange(row.features), (len(background), 1)), axis=1)
    parts = []
    for some in _pieces(len(background), row.features):
        piece, place = Inputs(background.numbers[some], background.categories[some]), order[some].argsort(axis=1)
        answers = _answers(ask, row, piece, order[some], own, usual[some])
        off = doubt(answers)
        steps = np.stack([np.diff(answers, axis=2), off[:, :, 1:] + off[:, :, :-1]])
        rows = np.arange(len(piece))[:, None]
        forward, backward = steps[:, :, 0][:, rows, place], steps[:, :, 1][:, rows, row.features - 1 - place]
        changed = _different(row, piece)
        parts.append((forward + backward) / 2 * changed.reshape(*changed.shape, *[1] * own.ndim))
    return np.concatenate(parts, axis=1)


def _answers(
    ask: Ask,
    row: Inputs,
    background: Inputs,
    order: NDArray[np.intp],
    own: NDArray[np.float64],
    usual: NDArray[np.float64],
) -> NDArray[np.float64]:
    """The answers after 0, 1, … features have got the row's values, by `order` and its reverse:
    [background, direction, step, ...]. A step that changes nothing, as both have the same value, is not asked about.
    """
    features, numbers = row.features, row.numbers.shape[1]
    steps = np.arange(1, features)
    ranks = order.argsort(axis=1)[:, None, None, :]
    taken = np.concatenate([ranks < steps[:, None], ranks >= features - steps[:, None]], axis=1)
    changed = np.take_along_axis(_different(row, background), order, axis=1)
    asked = np.stack([changed[:, :-1], changed[:, :0:-1]], axis=1)
    answers = np.empty((*asked.shape[:2], features + 1, *own.shape))
    answers[:, :, 0], answers[:, :, -1] = usual[:, None], own
    if asked.any():
        usual_row, theirs = asked.nonzero()[0], taken[asked]
        answers[:, :, 1:-1][asked] = ask(
            np.where(theirs[:, :numbers], row.numbers, background.numbers[usual_row]),
            np.where(theirs[:, numbers:], row.categories, background.categories[usual_row]),
        )
    last_asked = np.maximum.accumulate(np.where(asked, steps, 0), axis=2)
    last_asked = last_asked.reshape(*last_asked.shape, *[1] * own.ndim)
    answers[:, :, 1:-1] = np.take_along_axis(answers, last_asked, axis=2)
    return answers


def _different(row: Inputs, background: Inputs) -> NDArray[np.bool_]:
    """Which features of the background are not as the row has them: [background, features]."""
    both_missing = np.isnan(row.numbers) & np.isnan(background.numbers)
    numbers = (row.numbers != background.numbers) & ~both_missing
    return np.concatenate([numbers, row.categories != background.categories], axis=1)


def _pieces(rows: int, features: int) -> Iterator[slice]:
    """The background in pieces, so that not too much is asked about at once."""
    size = max(1, _CELLS // (2 * features * features))
    return (slice(at, at + size) for at in range(0, rows, size))
