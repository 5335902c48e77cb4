"""A Merkle tree over the hashes of all events, so that one event can be shown to be below an anchor without the others.

The tree of RFC 6962 (Certificate Transparency), section 2.1: a leaf is SHA-256 of a zero byte and the event's hash, a
node SHA-256 of a one byte and the two below it, and the left side of a node is a perfect tree.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce

from mlops_ray.errors import IntegrityError


@dataclass(frozen=True)
class Tree:
    """The first `size` hashes, by what it takes to go on: the roots of the perfect subtrees, the largest first."""

    size: int = 0
    subtrees: tuple[str, ...] = ()

    def with_hash(self, event_hash: str) -> "Tree":
        """The tree with one hash more."""
        subtrees, node, size = list(self.subtrees), _leaf(event_hash), self.size
        while size & 1:
            node, size = _node(subtrees.pop(), node), size >> 1
        return Tree(self.size + 1, (*subtrees, node))

    def with_hashes(self, hashes: Iterable[str]) -> "Tree":
        return reduce(Tree.with_hash, hashes, self)

    @property
    def root(self) -> str:
        """What stands for all of them. Of no hash: the SHA-256 of nothing."""
        if not self.subtrees:
            return hashlib.sha256().hexdigest()
        return reduce(lambda right, left: _node(left, right), reversed(self.subtrees))


def paths(hashes: Sequence[str], places: Iterable[int]) -> dict[int, list[tuple[str, str]]]:
    """For each place among the hashes, what is beside it on the way to the root: ("left" or "right", hash) each."""
    levels = [[_leaf(one) for one in hashes]]
    while len(levels[-1]) > 1:
        row = levels[-1]
        above = [_node(row[place], row[place + 1]) for place in range(0, len(row) - 1, 2)]
        levels.append(above + row[len(above) * 2 :])  # the last one of an odd number is moved up
    return {place: list(_path(levels, place)) for place in places}


def _path(levels: Sequence[Sequence[str]], place: int) -> Iterable[tuple[str, str]]:
    for row in levels[:-1]:
        beside = place ^ 1
        if beside < len(row):
            yield ("left" if beside < place else "right"), row[beside]
        place >>= 1


def _leaf(event_hash: str) -> str:
    try:
        return hashlib.sha256(b"\0" + bytes.fromhex(event_hash)).hexdigest()
    except ValueError:
        raise IntegrityError(f"The audit log was changed: {event_hash[:80]!r} is no hash of an event.") from None


def _node(left: str, right: str) -> str:
    return hashlib.sha256(b"\1" + bytes.fromhex(left) + bytes.fromhex(right)).hexdigest()
