"""Writing the index of a finished folder at a URL."""

from __future__ import annotations

from octprep.format import images_csv
from octprep.format.files import atomic_write
from octprep.format.manifest import Manifest
from octprep.format.record_index import INDEX_NAME, table_name
from octprep.shards.indexing import make_index
from octprep.shards.tfds import tfds_files
from octprep.shards.uploads import replace_files
from octprep.storage.cache import fetch_or_stream, holding, open_dataset
from octprep.storage.remote import RemoteFolder


@holding()
def index_url(place: RemoteFolder) -> dict[str, bytes]:
    """As `octprep.shards.indexing.index_folder`, of shards at a URL, which are read through the cache.

    The tables in the cache are written too. Raises ManifestError as `index_folder` does; OutputError if the cache
    cannot be written, or a build is writing to the URL; StorageError.
    """
    folder = open_dataset(place)
    manifest = Manifest.load(folder)
    paths = images_csv.read_checked(folder, manifest).paths
    _, streaming = fetch_or_stream(place, folder, manifest, tuple(manifest.splits), 1)
    files = make_index(folder, manifest, paths, streaming)
    old = {name for name in place.list() if name.startswith(f"{INDEX_NAME}/")}
    replace_files(place, manifest, {**files, **tfds_files(manifest)}, without=old)
    for split in manifest.splits:
        atomic_write(folder / table_name(split), files[table_name(split)], durable=False)
    return files
