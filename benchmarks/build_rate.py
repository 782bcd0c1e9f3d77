"""What preparing a scan costs: octprep's build beside the ways of other libraries, on the same synthetic scans.

Every way decodes, takes the median of 3 x 3 and resizes to 224 x 224 by area with OpenCV, on as many processes, and
writes pixels and class in its own form; octprep besides checks, crops, inpaints, hashes, describes and compares the
scans, and splits them by patient. Each runs in a process of its own, with compiled modules as pip installs them, is
measured from behind its imports to its end, and prints CPU milliseconds and wall milliseconds an image.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

CLASSES = ("CNV", "DME", "DRUSEN", "NORMAL")
SIDE = 224

Run = Callable[[], object]


def prepared(path: Path) -> Any:
    """The pixels that every other way stores, (SIDE, SIDE) uint8."""
    import cv2
    import numpy as np

    gray = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_GRAYSCALE)
    return cv2.resize(cv2.medianBlur(gray, 3), (SIDE, SIDE), interpolation=cv2.INTER_AREA)


def label(path: Path) -> int:
    return CLASSES.index(path.parent.name)


def in_processes(work: Callable[[list[Path], int, Path], None], paths: list[Path], out: Path, workers: int) -> None:
    """Call work(paths, number, out) in processes, each with its share of the paths."""
    import cv2

    cv2.setNumThreads(1)
    parts = [(paths[number::workers], number, out) for number in range(workers)]
    with multiprocessing.get_context("fork").Pool(workers) as pool:
        pool.starmap(work, parts)


def bare_part(paths: list[Path], number: int, out: Path) -> None:
    for path in paths:
        prepared(path)


def bare(paths: list[Path], out: Path, workers: int) -> Run:
    """Decode, median, resize; nothing is kept."""
    import cv2

    assert cv2
    return lambda: in_processes(bare_part, paths, out, workers)


def octprep(paths: list[Path], out: Path, workers: int) -> Run:
    """octprep build, with its default settings."""
    from octprep.pipeline import build

    return lambda: build(paths[0].parents[2], out / "shards", workers=workers)


def octprep_lean(paths: list[Path], out: Path, workers: int) -> Run:
    """octprep build without crop, inpainting and the search for near-duplicates."""
    from octprep.format.config import BuildConfig, Preprocessing
    from octprep.pipeline import build

    config = BuildConfig(recipe=Preprocessing(crop="none", inpaint_fill=False), near_duplicates=False)
    return lambda: build(paths[0].parents[2], out / "shards", config, workers=workers)


def webdataset_part(paths: list[Path], number: int, out: Path) -> None:
    import webdataset

    with webdataset.ShardWriter(f"{out}/{number}-%05d.tar", maxcount=2000, verbose=0) as writer:
        for path in paths:
            writer.write({"__key__": path.stem, "npy": prepared(path), "cls": label(path)})


def webdataset(paths: list[Path], out: Path, workers: int) -> Run:
    """WebDataset: its ShardWriter in each process."""
    import webdataset as library

    assert library
    return lambda: in_processes(webdataset_part, paths, out, workers)


def datasets(paths: list[Path], out: Path, workers: int) -> Run:
    """Hugging Face datasets: map over the paths, save_to_disk."""
    os.environ["HF_HOME"] = str(out / "home")
    import cv2
    import datasets as library

    cv2.setNumThreads(1)
    library.disable_progress_bars()
    features = library.Features(pixels=library.Array2D((SIDE, SIDE), "uint8"), label=library.Value("int64"))

    def work() -> None:
        listed = library.Dataset.from_dict({"path": list(map(str, paths))})
        listed.map(
            lambda row: {"pixels": prepared(Path(row["path"])), "label": label(Path(row["path"]))},
            num_proc=workers, remove_columns=["path"], features=features, load_from_cache_file=False,
        ).save_to_disk(out / "arrow")  # fmt: skip

    return work


def tfds(paths: list[Path], out: Path, workers: int) -> Run:
    """TensorFlow Datasets: a builder that is given an iterator; it writes in one process."""
    import cv2
    import tensorflow_datasets as library

    cv2.setNumThreads(1)
    features = library.features.FeaturesDict(
        {"image": library.features.Image(shape=(SIDE, SIDE, 1)), "label": library.features.ClassLabel(names=CLASSES)}
    )

    def examples() -> Iterator[tuple[int, dict[str, Any]]]:
        for number, path in enumerate(paths):
            yield number, {"image": prepared(path)[..., None], "label": label(path)}

    return lambda: library.dataset_builders.store_as_tfds_dataset(
        "scans", "1.0.0", features, {"train": examples()}, data_dir=out / "tfds", disable_shuffling=True
    )


WAYS: dict[str, Callable[[list[Path], Path, int], Run]] = {
    "decode, median, resize alone": bare,
    "octprep build": octprep,
    "octprep build, lean": octprep_lean,
    "WebDataset": webdataset,
    "Hugging Face datasets": datasets,
    "TensorFlow Datasets": tfds,
}


def cpu_seconds() -> float:
    """Of this process and those of its children that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def measure(way: str, src: Path, workers: int) -> dict[str, float]:
    """CPU and wall seconds of one way in this process."""
    paths = sorted(path for path in src.rglob("*.jpeg"))
    with tempfile.TemporaryDirectory() as folder:
        run = WAYS[way](paths, Path(folder), workers)
        cpu, wall = cpu_seconds(), time.perf_counter()
        run()
        return {"cpu": cpu_seconds() - cpu, "wall": time.perf_counter() - wall, "images": len(paths)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patients", type=int, default=160, help="about 12 scans each")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3, help="the least of which is shown")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--src", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        print(json.dumps(measure(options.way, options.src, options.workers)))
        return
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # without them, each worker would compile octprep itself
    with tempfile.TemporaryDirectory() as folder:
        src = Path(folder, "scans")
        command = [sys.executable, "-m", "octprep.cli", "synthesize", str(src), "--no-faults", "--quiet"]
        subprocess.run([*command, "--patients", str(options.patients)], check=True)
        best: dict[str, dict[str, float]] = {}
        for _ in range(options.rounds):
            for way in WAYS:
                child = [sys.executable, __file__, "--way", way, "--src", str(src), "--workers", str(options.workers)]
                done = subprocess.run(child, capture_output=True, text=True)
                if done.returncode:
                    print(f"{way}: {done.stderr.strip().splitlines()[-1]}")
                    continue
                found = json.loads(done.stdout.strip().splitlines()[-1])
                best[way] = min(found, best.get(way, found), key=lambda seconds: seconds["cpu"])
        print(f"{next(iter(best.values()))['images']:,} synthetic scans, {options.workers} processes, ms an image")
        print(f"{'':30}{'CPU':>8}{'wall':>8}")
        for way, found in best.items():
            print(f"{way:30}{1000 * found['cpu'] / found['images']:8.2f}{1000 * found['wall'] / found['images']:8.2f}")


if __name__ == "__main__":
    main()
