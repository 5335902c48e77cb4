"""What tests and benchmarks need that a user's own may need too."""
