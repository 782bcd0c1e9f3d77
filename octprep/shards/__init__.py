"""From prepared scans to a finished folder: cache, plan of the shards, records, writing, repair, work folder.

`workdir` says when a folder counts as finished; `tfrecord` and `records` are the format of a shard.
"""
