"""Edits of a finished folder, with or without an update of the digests that would reveal them."""

import hashlib
import json
import shutil

from octprep.format.errors import ManifestError
from octprep.format.manifest import Manifest
from octprep.shards import tfrecord
from octprep.shards.tfds import TFDS_NAMES
from octprep.verification import verify
from tests.worlds.archive import files_of


def restore(good, folder):
    """Make a folder equal to `good`."""
    for path in folder.rglob("*"):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            path.unlink()
    present, expected = files_of(folder), files_of(good)
    for name in present.keys() - expected.keys():
        (folder / name).unlink()
    for name, content in expected.items():
        if present.get(name) != content:
            path = folder / name
            if path.is_dir():
                shutil.rmtree(path)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


def violations_of(folder):
    """(check, where, message) of every violation; an unusable manifest counts as one, and nothing else is raised."""
    try:
        return [tuple(violation) for violation in verify(folder, workers=0).violations]
    except ManifestError as error:
        assert "manifest.json" in str(error)
        return [(5, "manifest.json", str(error))]


def checks_violated(folder):
    return {check for check, _, _ in violations_of(folder)}


def first_shard(folder, split):
    return Manifest.load(folder).splits[split][0].name


def read_records(path):
    return [tfrecord.decode(data) for data in tfrecord.read(path)]


def write_records(path, records):
    flat = ({key: v[0] if isinstance(v[0], bytes) else v for key, v in record.items()} for record in records)
    path.write_bytes(b"".join(tfrecord.frame(tfrecord.encode(record)) for record in flat))


def edit_records(folder, name, change):
    """Change a shard's records, and all digests and counts with them."""
    records = read_records(folder / name)
    change(records)
    write_records(folder / name, records)
    update_digests(folder)


def update_digests(folder):
    """Make the manifest fit the folder: the digests of both tables and all shards, their counts, and its own digest."""
    raw = json.loads((folder / "manifest.json").read_bytes())
    for name, key in (("images.csv", "images_sha256"), ("duplicates.json", "duplicates_sha256")):
        raw[key] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    for shards in raw["splits"].values():
        for shard in shards:
            data = (folder / shard["name"]).read_bytes()
            labels = [record["label"][0] for record in read_records(folder / shard["name"])]
            counts = [labels.count(label) for label in range(len(raw["class_names"]))]
            shard |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            shard |= {"records": sum(counts), "per_class": counts}
    write_manifest(folder, raw)


def edit_manifest(folder, change):
    """Change the manifest's JSON, and its digest with it."""
    raw = json.loads((folder / "manifest.json").read_bytes())
    change(raw)
    write_manifest(folder, raw)


def write_manifest(folder, raw):
    """Write a manifest with the digest of its content; index and TFDS files would be another dataset's and go."""
    shutil.rmtree(folder / "index", ignore_errors=True)
    for name in TFDS_NAMES:
        (folder / name).unlink(missing_ok=True)
    fields = {key: value for key, value in raw.items() if key != "digest"}
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(text.encode()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps({"digest": digest, **fields}, indent=1) + "\n")
