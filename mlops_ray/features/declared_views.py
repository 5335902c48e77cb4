"""Declared views: what of a feature view's definition follows from its declaration in the use case."""

from mlops_ray.features.columns import DTYPES
from mlops_ray.features.definitions import DeclaredView
from mlops_ray.use_case import UseCase, WindowedView
from mlops_ray.use_case.checks import column_types
from mlops_ray.use_case.view_checks import field_types

_FEAST_TYPES = {dtype: name for name, dtype in DTYPES.items()}


def declared_views(use_case: UseCase) -> list[DeclaredView]:
    """The views of the use case in their order: keys, features and ttl of those of windows, of functions the names."""
    found = []
    for name, view in use_case.feature_views.items():
        if not isinstance(view, WindowedView):
            found.append(DeclaredView(name))
            continue
        columns = column_types(use_case, view.source)
        keys = {key: _FEAST_TYPES[columns[key]] for key in view.keys}
        features = {feature: _FEAST_TYPES[dtype] for feature, dtype in field_types(view, columns).items()}
        found.append(DeclaredView(name, keys, features, view.window.total_seconds()))
    return found
