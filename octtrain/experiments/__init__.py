"""Experiments: comparisons of trainings on one dataset."""
