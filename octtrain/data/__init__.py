"""Batches of images and labels from shards."""
