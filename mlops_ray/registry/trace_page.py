"""The page of a trace: a graph from raw files to what is served, and the tables behind it."""

from html import escape
from itertools import pairwise
from typing import TYPE_CHECKING

from mlops_ray.show.document import table
from mlops_ray.show.graph import Node, graph

if TYPE_CHECKING:
    from mlops_ray.registry.trace import Trace

_SOURCES, _VIEWS, _EVENTS = 8, 8, 12


def trace_html(found: "Trace") -> str:
    """The body."""
    parts = [f"<h1>{escape(found.title)}</h1>", lineage_graph(found)]
    parts += [f'<p class="warn">{escape(sentence)}</p>' for sentence in found.erased]
    events = [
        (escape(one["time"][:19].replace("T", " ")), escape(one["type"]), escape(one["actor"]), escape(one["reason"]))
        for one in (*found.gates, *found.approvals)
    ]
    if events:
        cut = f"<p><small>The first {_EVENTS} of {len(events)}.</small></p>" if len(events) > _EVENTS else ""
        parts.append(f"<h2>Gates and approvals</h2>{table(('UTC', 'what', 'by', 'reason'), events[:_EVENTS])}{cut}")
    return "".join(parts)


def lineage_graph(found: "Trace") -> str:
    """What a version was made from, as a chart."""
    nodes, edges = _graph(found)
    label = f"What {found.use_case}@{found.version} was made from: {', '.join(node.name for node in nodes.values())}"
    return graph(nodes, edges, label)


def _graph(found: "Trace") -> tuple[dict[str, Node], list[tuple[str, str]]]:
    made_from = found.lineage
    nodes: dict[str, Node] = {}
    for name, files in list(made_from.source_files.items())[:_SOURCES]:
        counts = made_from.rows.get(name, {})
        nodes[f"source {name}"] = Node(name, f"{len(files):,} files, {counts.get('rows_in', 0):,} rows", 0)
    edges = [(key, "snapshot") for key in nodes]
    nodes["snapshot"] = Node("snapshot", made_from.snapshot[:12], 1)
    views = list(made_from.feature_rows)
    for name in views[:_VIEWS] if len(views) <= _VIEWS else views[: _VIEWS - 1]:
        nodes[f"view {name}"] = Node(name, "feature view", 2)
    if len(views) > _VIEWS:
        nodes["views"] = Node(f"{len(views) - _VIEWS + 1} more views", "features", 2)
    rank = 3 if views else 2
    for key in [key for key, node in nodes.items() if views and node.rank == 2]:
        edges += [("snapshot", key), (key, "training set")]
    if not views:
        edges.append(("snapshot", "training set"))
    nodes["training set"] = Node(
        "training set", f"{made_from.training_rows:,} rows, {made_from.training_set[:8]}", rank
    )
    nodes["search"] = Node(f"search, {len(made_from.trials)} trials", f"by {made_from.metric}", rank + 1)
    nodes["model"] = Node(made_from.candidate, f"sealed {made_from.digest[:12]}", rank + 2)
    nodes["version"] = Node(f"{found.use_case}@{found.version}", _served(found), rank + 3)
    chain = ("training set", "search", "model", "version")
    return nodes, [*edges, *pairwise(chain)]


def _served(found: "Trace") -> str:
    served = [one for one in found.deployments if one.version == found.version]
    if not served:
        return "never live"
    last = served[-1]
    until = f"until {last.until:%Y-%m-%d}" if last.until else f"since {last.since:%Y-%m-%d}"
    return f"{last.part} {until}"
