"""The README's programs run as they stand there, and read what octprep wrote."""

import re
from pathlib import Path

import numpy as np
import pytest
from world import archive, write_folder

from octprep import tfrecord
from octprep.pipeline import build
from octprep.schema import BuildConfig, Manifest

README = Path(__file__).parents[1] / "README.md"
PROGRAMS = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    home = tmp_path_factory.mktemp("readme")
    build(write_folder(home / "src", archive()), home / "shards", BuildConfig(), workers=1)
    return home / "shards"


def records(shards, split):
    """Pixels and labels, by octprep's own reader."""
    manifest = Manifest.load(shards)
    found = [tfrecord.decode(data) for shard in manifest.splits[split] for data in tfrecord.read(shards / shard.name)]
    return [(np.frombuffer(one["image"][0], np.uint8).reshape(224, 224), one["label"][0]) for one in found]


def test_the_tensorflow_program_reads_the_test_split(shards, monkeypatch):
    [program] = [text for text in PROGRAMS if "import json, pathlib, tensorflow" in text]
    monkeypatch.chdir(shards.parent)
    seen: list[np.ndarray] = []
    names = {"seen": seen}
    exec(program.rstrip() + "\n    seen.extend(images.numpy())\n", names)
    wanted = records(shards, "test")
    assert len(seen) == len(wanted) > 0
    assert all(np.array_equal(one[..., 0], pixels) for one, (pixels, _) in zip(seen, wanted, strict=True))


def test_the_pytorch_program_reads_every_split(shards):
    pytest.importorskip("torch", reason="PyTorch is not here")
    [program] = [text for text in PROGRAMS if "import pathlib, numpy as np, torch" in text]
    names: dict[str, object] = {}
    exec(program, names)
    for split in ("train", "val", "test"):
        seen = list(names["Shards"](shards, split))
        wanted = records(shards, split)
        assert len(seen) == len(wanted) > 0
        for (image, label), (pixels, known) in zip(seen, wanted, strict=True):
            assert image.shape == (1, 224, 224) and label == known
            assert np.array_equal(image.numpy()[0], pixels)
