"""Object stores, named by URLs such as s3://bucket/folder, through fsspec and its packages (extra `remote`).

`remote` lists, reads and writes objects; `cache` keeps whole datasets on this machine's disk, checked against their
manifests; `upload` puts a finished folder of shards at a URL, the manifest last. fsspec is imported when the first
object is asked for, never for a local path.
"""
