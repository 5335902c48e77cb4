"""Installed packages: which of our extras a machine has, and every package that they promise it.

No installer records which extras it was asked for, so they are told by the packages that no other part of ours brings.
"""

from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution, requires

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from mlops_ray.extras import is_installed

_OURS = "mlops_ray"


def extras_here() -> Mapping[str, bool]:
    """Of each extra that brings packages, whether it is installed: at least half of what it alone brings is there."""
    base, extras = _declared()
    return {name: _is_here(name, base, extras) for name in extras}


def promised() -> frozenset[str]:
    """Canonical names of all that this package and its installed extras need in turn, whether they are there or not."""
    base, extras = _declared()
    here = [one for name, is_here in extras_here().items() if is_here for one in extras[name]]
    return _closure([*base, *here])


def _declared() -> tuple[list[Requirement], dict[str, list[Requirement]]]:
    """What is needed without an extra, and for each that is not made of others. Nothing for a tree on Python's path."""
    try:
        every = [Requirement(one) for one in requires(_OURS) or ()]
        names = distribution(_OURS).metadata.get_all("Provides-Extra") or []
    except PackageNotFoundError:
        return [], {}
    base = [one for one in every if _is_needed(one, "")]
    added = {name: [one for one in every if one not in base and _is_needed(one, name)] for name in names}
    ours = canonicalize_name(_OURS)
    return base, {
        name: what for name, what in added.items() if what and all(canonicalize_name(one.name) != ours for one in what)
    }


def _is_here(extra: str, base: list[Requirement], extras: Mapping[str, list[Requirement]]) -> bool:
    others = [one for name, what in extras.items() if name != extra for one in what]
    names = {canonicalize_name(one.name) for one in extras[extra]}
    alone = names - _closure([*base, *others])
    there = sum(map(is_installed, alone or names))
    return 2 * there >= len(alone) if alone else there == len(names)


def _closure(roots: Iterable[Requirement]) -> frozenset[str]:
    """Canonical names of what is needed in turn. What is not installed is named, and what that needs is unknown."""
    todo = list(roots)
    seen: set[tuple[str, frozenset[str]]] = set()
    while todo:
        wanted = todo.pop()
        asked = canonicalize_name(wanted.name), frozenset(wanted.extras)
        if asked not in seen:
            seen.add(asked)
            todo += [one for one in _needs(asked[0]) if any(_is_needed(one, name) for name in ("", *asked[1]))]
    return frozenset(name for name, _ in seen)


@cache
def _needs(name: str) -> tuple[Requirement, ...]:
    return tuple(map(Requirement, (requires(name) if is_installed(name) else None) or ()))


@cache
def _is_needed(one: Requirement, extra: str) -> bool:
    return one.marker is None or one.marker.evaluate({"extra": extra})
