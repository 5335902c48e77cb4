"""How long a window is; the declaration that a use case makes (see `mlops_ray.window_spec`)."""

from mlops_ray.window_spec import WindowSpec as WindowSpec
