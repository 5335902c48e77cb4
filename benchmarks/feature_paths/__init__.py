"""Ways that features take, each with the figures that `benchmarks/features.py` shows."""
