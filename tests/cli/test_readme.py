"""The programs in README.md and docs/format.md run as they are printed, and read what octprep wrote."""

import gc
import itertools
import re
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import octprep
import octtrain
from octprep.format.config import BuildConfig
from octprep.pipeline import build
from tests.worlds.archive import archive, write_folder

ROOT = Path(__file__).parents[2]


def program_of(document: str, heading: str) -> str:
    """The Python program below a heading."""
    _, section = re.split(rf"\n##+ {heading}\n", (ROOT / document).read_text(encoding="utf-8"))
    section = re.split(r"\n##+ ", section)[0]
    [program] = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    return program


@pytest.fixture(scope="module", params=["raw", "png"])
def folder(request, tmp_path_factory):
    """A folder that holds `shards`, in each encoding."""
    folder = tmp_path_factory.mktemp(request.param)
    config = BuildConfig(encoding=request.param)
    build(write_folder(folder / "OCT2017", archive()), folder / "shards", config, workers=1)
    return folder


@pytest.fixture
def records(folder, monkeypatch):
    """The records of a split by octprep's own reader; the working folder holds `shards`."""
    monkeypatch.chdir(folder)
    return lambda split: list(octprep.read_records(Path("shards"), split))


def run(program: str, collect: str) -> dict:
    """Run a program that ends in the body of a loop, to which a line is added; returns its variables."""
    variables = {"__name__": "__main__", "collected": [], "np": np}
    indent = re.findall(r"^ +", program, re.MULTILINE)[-1]
    exec(f"{program.rstrip()}\n{indent}{collect}\n", variables)
    return variables


def each_once(records):
    return as_counts((record.pixels, record.label) for record in records if not record.repeat)


def as_counts(pairs):
    """How often each pair of an image and a label occurs."""
    return Counter((np.ascontiguousarray(image).tobytes(), int(label)) for image, label in pairs)


@pytest.mark.slow
def test_python_interface(folder, tmp_path, monkeypatch, capsys):
    if (folder / "shards").parent.name.startswith("png"):
        pytest.skip("one encoding is enough")
    pytest.importorskip("keras", reason="Keras is not installed")
    shutil.copytree(folder / "OCT2017", tmp_path / "OCT2017")
    shutil.copy(next((folder / "OCT2017").rglob("*.jpeg")), tmp_path / "scan.jpeg")
    monkeypatch.chdir(tmp_path)
    variables = {}
    exec(program_of("README.md", "From Python").replace("epochs=20", "epochs=1"), variables)
    assert variables["pixels"].shape == (224, 224) and variables["pixels"].dtype == np.uint8
    assert variables["images"].shape == variables["gathered"].shape == (32, 224, 224, 1)
    assert "scan.jpeg" in capsys.readouterr().out


def test_numpy(records):
    variables = {}
    expected = records("test")
    exec(program_of("docs/format.md", "NumPy"), variables)
    assert variables["images"].shape == (len(expected), 224, 224) and variables["images"].dtype == np.uint8
    assert as_counts(zip(variables["images"], variables["labels"], strict=True)) == as_counts(
        (record.pixels, record.label) for record in expected
    )
    assert variables["patients"] == [record.patient for record in expected]


@pytest.mark.slow
def test_tensorflow(folder, records):
    pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
    expected = records("test")
    program = program_of("docs/format.md", "TensorFlow")
    if folder.name.startswith("png"):
        replacement = 'tf.map_fn(tf.io.decode_png, example["image"], tf.uint8)'
        assert replacement in (ROOT / "docs" / "format.md").read_text(encoding="utf-8")
        program = program.replace('tf.io.decode_raw(example["image"], tf.uint8)', replacement)
    variables = run(program, "collected.extend(zip(images.numpy(), labels.numpy()))")
    assert as_counts(variables["collected"]) == as_counts((record.pixels, record.label) for record in expected)
    assert variables["images"].shape[1:] == (224, 224, 1)


@pytest.fixture
def raw_only(folder):
    if folder.name.startswith("png"):
        pytest.skip("PNGs are not gathered by number")


def test_records_by_number(raw_only, records):
    expected = records("train")
    variables = {}
    exec(program_of("docs/format.md", "Records by number"), variables)
    chosen = [expected[number] for number in variables["records"]]
    assert variables["pixels"].shape == (len(chosen), 224, 224, 1)
    np.testing.assert_array_equal(variables["pixels"][..., 0], [record.pixels for record in chosen])
    assert variables["labels"].tolist() == [record.label for record in chosen]
    assert len(variables["patients"]) == len(chosen)


@pytest.mark.parametrize("text", ["comment with the dataset", "offset size"])
def test_index_is_as_described(records, text):
    assert text in (ROOT / "docs" / "format.md").read_text(encoding="utf-8")
    section = (
        (ROOT / "docs" / "format.md").read_text(encoding="utf-8").partition("\n## index/\n")[2].partition("\n## ")[0]
    )
    named = [
        name for cell in re.findall(r"^\| (`.*?) \|", section, re.MULTILINE) for name in re.findall("`(.*?)`", cell)
    ]
    comment, header, *_ = Path("shards/index/train.csv").read_text().splitlines()
    assert comment.startswith("# ") and header.split(",") == named


@pytest.mark.slow
def test_pytorch(raw_only, records):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    expected = as_counts((record.pixels, record.label) for record in records("train"))
    program = program_of("docs/format.md", "PyTorch")
    variables = run(program, "collected.extend(zip(images.numpy(), labels))")
    assert as_counts(variables["collected"]) == expected
    assert variables["images"].shape[1:] == (1, 224, 224) and variables["images"].dtype == torch.uint8

    dataset = octtrain.MappedImages("shards", "train")
    shared = []
    for rank in range(2):
        sampler = torch.utils.data.DistributedSampler(dataset, num_replicas=2, rank=rank)
        for images, labels in torch.utils.data.DataLoader(dataset, batch_size=4, sampler=sampler):
            shared += zip(images.numpy(), labels, strict=True)
    assert len(dataset) <= len(shared) <= len(dataset) + 1  # the ranks are made equal by one repeat at most
    assert as_counts(shared).keys() == expected.keys()


@pytest.mark.slow
def test_pytorch_as_a_stream(folder, records, monkeypatch):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    expected = as_counts((record.pixels, record.label) for record in records("train"))
    program = program_of("docs/format.md", "PyTorch, as a stream")
    if folder.name.startswith("png"):
        stream = 'itertools.islice(octprep.read_records("shards", "train"), part, None, parts)'
        assert stream in (ROOT / "docs" / "format.md").read_text(encoding="utf-8")
        for mapped, streamed in (
            ("import octtrain\n", "import itertools, octprep\n"),
            ("octtrain.MappedImages(folder, split)", "None"),
            ("range(part, len(self.images), parts)", stream),
            ("self.images[record]", "record.pixels[..., None].copy(), record.label"),
        ):
            assert mapped in program
            program = program.replace(mapped, streamed)
    variables = run(program, "collected.extend(zip(images.numpy(), labels))")
    assert as_counts(variables["collected"]) == expected
    assert variables["images"].shape[1:] == (1, 224, 224) and variables["images"].dtype == torch.uint8

    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 3)
    for workers in (0, 2):
        parts = []
        for rank in range(3):
            monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
            loader = torch.utils.data.DataLoader(variables["Records"]("shards", "train"), None, num_workers=workers)
            parts.append([(image.numpy(), label) for image, label in loader])
        assert as_counts(itertools.chain(*parts)) == expected
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.slow
def test_jax(raw_only, records):
    pytest.importorskip("grain", reason="Grain is not installed")
    train = records("train")
    expected = as_counts((record.pixels, record.label) for record in train)
    program = program_of("docs/format.md", "JAX")
    variables = run(program.replace(".batch(32", ".batch(4"), "collected.extend(zip(images, labels))")
    counts = as_counts(variables["collected"])
    assert counts <= expected and counts.total() == len(train) // 4 * 4
    assert variables["images"].shape == (4, 224, 224, 1) and variables["images"].dtype == np.uint8
    assert as_counts(variables["collected"][:8]) != as_counts((record.pixels, record.label) for record in train[:8])

    assert "`[jax.process_index() :: jax.process_count()]`" in (ROOT / "docs" / "format.md").read_text(encoding="utf-8")
    parts = [
        run(
            program.replace('"train"))\n', f'"train"))[{process} :: 3]\n').replace(", drop_remainder=True", ""),
            "collected.extend(zip(images, labels))",
        )["collected"]
        for process in range(3)
    ]
    assert as_counts(itertools.chain(*parts)) == expected


# Other formats


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # WebDataset leaves the tars open
def test_webdataset(raw_only, records):
    pytest.importorskip("webdataset", reason="WebDataset is not installed")
    octprep.export("shards", "tars", "webdataset", workers=1)
    variables = run(program_of("docs/format.md", "WebDataset"), "collected.append((image, label))")
    assert as_counts(variables["collected"]) == each_once(records("train"))
    assert variables["image"].shape == (224, 224) and variables["image"].dtype == np.uint8
    gc.collect()


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of datasets and what it imports
def test_hugging_face(raw_only, records, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    octprep.export("shards", "tables", "parquet", workers=1)
    variables = run(
        program_of("docs/format.md", "Hugging Face datasets"), "collected.append((np.asarray(image), label))"
    )
    assert as_counts(variables["collected"]) == each_once(records("train"))
    assert variables["names"] == list(octprep.Manifest.load(Path("shards")).class_names)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of TFDS and what it imports
def test_tensorflow_datasets(folder, records):
    pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
    pytest.importorskip("tensorflow_datasets", reason="TensorFlow Datasets is not installed")
    expected = records("test")
    program = program_of("docs/format.md", "TensorFlow Datasets")
    variables = run(program, "collected.extend(zip(images.numpy(), labels.numpy()))")
    assert as_counts(variables["collected"]) == as_counts((record.pixels, record.label) for record in expected)
    assert variables["images"].shape == (len(expected), 224, 224, 1)
    assert variables["names"] == list(octprep.Manifest.load(Path("shards")).class_names)


def test_every_linked_file_exists():
    documents = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]
    made = {"docs/options.md", "docs/splits.md"}
    for document in documents:
        for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", document.read_text(encoding="utf-8")):
            path = (document.parent / link).resolve()
            assert path.exists() or path.relative_to(ROOT).as_posix() in made, f"{document.name} links to {link}"
