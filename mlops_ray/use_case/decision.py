"""Decision: what a probability is turned into."""

# From this probability on an answer is yes: at the endpoint, in batch, in monitoring and where fairness is judged.
DECISION_THRESHOLD = 0.5
