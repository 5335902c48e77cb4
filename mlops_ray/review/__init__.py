"""Review: what a reviewer of a change reads: standards, tests, and the version it makes beside the one that is live."""
