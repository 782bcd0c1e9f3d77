"""Evaluating a trained model on a split of a dataset."""
