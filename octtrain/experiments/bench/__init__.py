"""What limits a training: its parts measured alone, and all together, for every feed that goes with the shards."""
