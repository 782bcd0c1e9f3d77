"""Keras models trained and judged on the shards that octprep writes."""
