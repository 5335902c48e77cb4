"""Retraining: a policy decides when to train again, a governor carries it out, a backtest tries it on the past."""
