"""Front ends: that HAProxy on each node knows where the replicas are.

Serve's controller tells each node's proxy, which asks it again and again. But a proxy of Ray 2.60 that fails to reach
the controller once, as where a clock is set or a link is cut, never asks again, and says nothing: HAProxy then goes on
with ports at which other applications listen later. So what a proxy has missed it is told from here.
"""

import logging
from collections.abc import Mapping
from typing import Any

import ray
from ray.serve.context import _get_global_client

from mlops_ray.errors import UnavailableError

FRONT_END_LOOK_S = 5.0
_PATIENCE_S = 4.0

_logger = logging.getLogger(__name__)


class FrontEnds:
    """Looks at the proxies of all nodes. One that is behind at two looks, while nothing changed, is told."""

    def __init__(self) -> None:
        self._wanted: Any = None
        self._behind: frozenset[str] = frozenset()

    def look(self) -> list[str]:
        """The nodes whose proxies were told. Raises UnavailableError if the controller does not answer."""
        controller = _get_global_client()._controller
        asked = controller.get_target_groups.remote(from_proxy_manager=True), controller.get_proxies.remote()
        try:
            wanted, proxies = ray.get(list(asked), timeout=_PATIENCE_S)
        except (ray.exceptions.RayError, TimeoutError) as error:
            raise UnavailableError(f"Serve's controller does not answer: {error}") from error
        # The proxy that answers where an application has no replica is Serve's own, and asks nobody.
        proxies = {node: proxy for node, proxy in proxies.items() if hasattr(proxy, "get_target_groups")}
        behind = self._those_behind(wanted, proxies)
        told = sorted(behind & self._behind) if wanted == self._wanted else []
        for node in told:
            proxies[node].update_target_groups.remote(wanted)
            _logger.warning("The front end of node %s had missed where replicas are, and was told.", node)
        self._wanted, self._behind = wanted, behind
        return told

    def _those_behind(self, wanted: Any, proxies: Mapping[str, Any]) -> frozenset[str]:
        """A proxy that does not answer is as good as gone, and looked at the next time."""
        asked = {node: proxy.get_target_groups.remote() for node, proxy in proxies.items()}
        ray.wait(list(asked.values()), num_returns=len(asked), timeout=_PATIENCE_S)
        found = set()
        for node, reference in asked.items():
            try:
                if ray.get(reference, timeout=0) != wanted:
                    found.add(node)
            except (ray.exceptions.RayError, TimeoutError):
                continue
        return frozenset(found)
