"""Random bytes, guided by coverage, for what reads the files of a folder of shards (https://github.com/google/atheris).

    python tests/fuzz/run.py manifest --seconds 600

A reader may raise the errors that its docstring names and no other. What made one fail is kept as a file crash-... in
the present folder; `python tests/fuzz/run.py manifest --input FILE` repeats it.
"""

from __future__ import annotations

import argparse
import dataclasses
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import atheris

with atheris.instrument_imports(include=["octprep"]):
    from octprep.duplicates.duplicates_json import DuplicatesFile
    from octprep.format import images_csv, record_index
    from octprep.format.config import Preprocessing
    from octprep.format.errors import ManifestError
    from octprep.format.json_types import read_json
    from octprep.format.manifest import DUPLICATES_NAME, IMAGES_NAME, MANIFEST_NAME, Manifest
    from octprep.shards import tfrecord
    from octprep.shards.tfrecord import RecordError

from octprep.pipeline import build
from octprep.shards.records import decode_with_pixels
from tests.worlds.archive import archive, write_folder
from tests.worlds.builds import CONFIG

SMALL = dataclasses.replace(CONFIG, recipe=Preprocessing(height=16, width=16, flatten=True))
FEATURES = ("image", "label", "path", "repeat")


class Targets:
    """What is called with random bytes, with some to begin with. folder: finished, built with the settings SMALL."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.whole = Manifest.load(folder)
        self.png = dataclasses.replace(self.whole, config=dataclasses.replace(SMALL, encoding="png"))

    def manifest(self, data: bytes) -> None:
        """manifest.json, edited or not."""
        try:
            raw = read_json(data)
        except ValueError:
            return
        try:
            manifest = Manifest.from_json(raw, Path("manifest.json"), allow_edited=True)
        except ManifestError:
            return
        assert Manifest.from_json(read_json(manifest.to_bytes()), Path("manifest.json")) == manifest

    def images(self, data: bytes) -> None:
        """images.csv."""
        try:
            images_csv.decode(data)
        except ValueError:
            return

    def duplicates(self, data: bytes) -> None:
        """duplicates.json."""
        try:
            DuplicatesFile.from_json(data)
        except ValueError:
            return

    def index(self, data: bytes) -> None:
        """A table of the index."""
        try:
            record_index.decode(data, self.whole.digest)
        except ValueError:
            return

    def shard(self, data: bytes) -> None:
        """The frames of a shard."""
        try:
            for frame in tfrecord.frames(data):
                tfrecord.value_spans(data, *tfrecord.data_span(frame), FEATURES)
        except RecordError:
            return

    def record(self, data: bytes) -> None:
        """The bytes of a record whose CRC is right."""
        for manifest in (self.whole, self.png):
            try:
                decode_with_pixels(data, manifest)
            except RecordError:
                continue
        try:
            tfrecord.value_spans(data, 0, len(data), FEATURES)
        except RecordError:
            return

    def seeds(self, name: str) -> list[bytes]:
        """Valid bytes of a kind of file."""
        shards = sorted(self.folder.glob("*/*.tfrecord"))
        paths = {
            "manifest": [self.folder / MANIFEST_NAME],
            "images": [self.folder / IMAGES_NAME],
            "duplicates": [self.folder / DUPLICATES_NAME],
            "index": sorted(self.folder.glob("index/*.csv")),
            "shard": shards,
            "record": [],
        }[name]
        if name == "record":
            return [record for shard in shards for record in tfrecord.read(shard)]
        return [path.read_bytes() for path in paths]


def main() -> None:
    names = ("manifest", "images", "duplicates", "index", "shard", "record")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", choices=names)
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--input", type=Path)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.folder is None:  # libFuzzer ends its process without cleaning up, so it has one of its own
        with tempfile.TemporaryDirectory() as folder:
            build(write_folder(Path(folder, "source"), archive(2)), Path(folder, "out"), SMALL, workers=0)
            sys.exit(subprocess.run([sys.executable, *sys.argv, "--folder", folder]).returncode)
    targets, corpus = Targets(options.folder / "out"), options.folder / "corpus"
    corpus.mkdir()
    for index, data in enumerate(targets.seeds(options.target)):
        (corpus / str(index)).write_bytes(data)
    what = [str(options.input)] if options.input else [str(corpus), f"-max_total_time={options.seconds}"]
    atheris.Setup([sys.argv[0], "-timeout=20", "-print_final_stats=1", *what], getattr(targets, options.target))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
