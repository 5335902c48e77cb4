"""Families of models that a use case can search over; a user's own needs only the Candidate protocol."""

from mlops_ray.training.candidates.gradient_boosting import GradientBoosting
from mlops_ray.training.candidates.light_gbm import LightGBM
from mlops_ray.training.candidates.linear_regression import LinearRegression
from mlops_ray.training.candidates.logistic_regression import LogisticRegression
from mlops_ray.training.candidates.neural_network import NeuralNetwork

__all__ = ["GradientBoosting", "LightGBM", "LinearRegression", "LogisticRegression", "NeuralNetwork"]
