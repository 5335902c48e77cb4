"""What the watch of the champion cannot see: a governor that waits for alarms is to say which there cannot be."""

import logging
from collections.abc import Mapping

from mlops_ray.errors import ConfigurationError, UnavailableError
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.live import live
from mlops_ray.governance.monitoring_definitions import MonitoringRevision, definition_of
from mlops_ray.monitoring.blind_spots import blind_spots
from mlops_ray.monitoring.definition import Registry, find_sealed, watched_by
from mlops_ray.monitoring.reference import Reference
from mlops_ray.monitoring.sealed_reference import SealedReference
from mlops_ray.use_case import Question

_logger = logging.getLogger(__name__)


class BlindChampion:
    """Reads a champion's reference once, and again when it or how it is watched is another."""

    def __init__(self, registry: Registry, store: ControlStore, use_case: str):
        self._registry, self._store, self._use_case = registry, store, use_case
        self._known: tuple[tuple[int, int], Mapping[Question, str]] | None = None

    def __call__(self) -> Mapping[Question, str]:
        """Questions about which no alarm can be raised, with why; nothing while the registry is away or for a version
        that is not watched, of which the watch says that."""
        champion, revision = live(self._store, self._use_case).champion, definition_of(self._store, self._use_case)
        if champion is None:
            return {}
        made_of = champion.version, 0 if revision is None else revision.revision
        if self._known is None or self._known[0] != made_of:
            try:
                sealed = find_sealed(self._registry, self._use_case, str(champion.version))
            except UnavailableError as error:
                _logger.warning("What the watch of %s cannot see is not known: %s", self._use_case, error)
                return {}
            self._known = made_of, {} if isinstance(sealed, str) else blind_spots(_reference(sealed, revision))
        return self._known[1]


def _reference(sealed: SealedReference, revision: MonitoringRevision | None) -> Reference:
    """As the drift actor has it: as it was sealed, where it cannot be watched as somebody has set it since."""
    try:
        return watched_by(sealed, "", revision).reference
    except ConfigurationError:
        return sealed.reference
