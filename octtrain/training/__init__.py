"""Training a model on a folder of shards into a run folder."""
