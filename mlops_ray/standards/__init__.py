"""Standards: what an organisation asks of its use cases, as rules that `mlops-ray check` runs."""
