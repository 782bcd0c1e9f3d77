"""WebDataset: tar files in which the files of one sample follow one another (https://github.com/webdataset/webdataset)."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path

from octprep.format.manifest import LABEL, Manifest
from octprep.interchange.samples import Sample


def write_tar(path: Path, samples: Iterable[Sample], manifest: Manifest) -> None:
    """Write a tar of KEY.cls (the label), KEY.json (the metadata and the name of the class) and KEY.png.

    Equal samples give equal bytes: the headers hold no time and no owner.
    """
    with path.open("wb") as file, tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for sample in samples:
            label = sample.metadata[LABEL]
            metadata = {"class": manifest.class_names[label], **sample.metadata}
            contents = {"cls": str(label).encode(), "json": json.dumps(metadata).encode(), "png": sample.png}
            for extension, content in contents.items():
                entry = tarfile.TarInfo(f"{sample.key}.{extension}")
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
