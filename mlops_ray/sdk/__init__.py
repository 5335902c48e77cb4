"""SDK: what a notebook uses. Its names are those of `mlops_ray` itself."""
