"""The README's programs run as they stand there, and read what octprep wrote."""

import importlib
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from octprep.format.config import BuildConfig
from octprep.format.manifest import Manifest
from octprep.pipeline import build
from octprep.shards import tfrecord
from tests.worlds.archive import archive, write_folder

README = Path(__file__).parents[2] / "README.md"
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


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["raw", "png"])
def test_the_pytorch_program_gives_every_record_once_over_workers_and_ranks(shards, tmp_path, encoding):
    torch = pytest.importorskip("torch", reason="PyTorch is not here")
    folder = shards
    if encoding == "png":
        folder = tmp_path / "shards"
        build(shards.parent / "src", folder, BuildConfig(encoding="png"), workers=1)
    [program] = [text for text in PROGRAMS if "import pathlib, cv2, numpy as np, torch" in text]
    (tmp_path / "program.py").write_text(program)
    sys.path.insert(0, str(tmp_path))
    try:
        sys.modules.pop("program", None)
        dataset = importlib.import_module("program").Shards(folder, "train")
    finally:
        sys.path.remove(str(tmp_path))
    if encoding == "raw":
        wanted = sorted((pixels.tobytes(), label) for pixels, label in records(shards, "train"))
        assert sorted((image.numpy().tobytes(), label) for image, label in dataset) == wanted

    everything = sorted((image.numpy().tobytes(), label) for image, label in dataset)
    orders, read = [], []
    for rank in range(2):
        sampler = torch.utils.data.DistributedSampler(dataset, num_replicas=2, rank=rank, drop_last=False)
        loader = torch.utils.data.DataLoader(dataset, batch_size=4, sampler=sampler, num_workers=2)
        for images, labels in loader:
            assert images.shape[1:] == (1, 224, 224) and images.dtype == torch.uint8
            read += [(image.numpy().tobytes(), int(label)) for image, label in zip(images, labels, strict=True)]
    assert len(everything) <= len(read) <= len(everything) + 1  # the ranks are made equal by one repeat at most
    assert sorted(set(read)) == sorted(set(everything))
    for epoch in range(2):
        torch.manual_seed(epoch)
        loader = torch.utils.data.DataLoader(dataset, batch_size=4, shuffle=True)
        orders.append([image.numpy().tobytes() for images, _ in loader for image in images])
    assert orders[0] != orders[1] and sorted(orders[0]) == sorted(orders[1])


def test_offsets_are_those_of_the_records(shards, tmp_path):
    [shard, *_] = Manifest.load(shards).splits["train"]
    path = shards / shard.name
    found = tfrecord.offsets(path)
    assert [tfrecord.read_at(path, offset) for offset in found] == list(tfrecord.read(path))
    cut = tmp_path / "cut.tfrecord"
    cut.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(tfrecord.RecordError, match="ends inside the record"):
        tfrecord.offsets(cut)
