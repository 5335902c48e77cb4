"""What `benchmarks/serving.py` measures with: the model, the servers, the load."""
