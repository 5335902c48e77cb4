"""Tasks: what the loop must know of a label's kind, one file for each kind. Every stage asks here, and none knows."""
