"""What the preparation costs for each scan beside decoding: `octprep build`, resumed, with one scan more, and `verify`.

The scans are tiny, so nearly all that is measured is what grows with their number: listing, comparing, planning,
tables, index, and the memory of the program that gives the tasks to the workers. `benchmarks/full_size.py` measures
the whole preparation on synthetic B-scans. docs/costs.md has the results.

    python -m benchmarks.costs --scans 20000 100000

With --src, scans of their own size are prepared with default settings instead; one is added and taken away again.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import simplejpeg

from octprep.format.manifest import MANIFEST_NAME, WORK_NAME

CLASSES = ("CNV", "DME", "DRUSEN", "NORMAL")
SHARES = (0.45, 0.14, 0.10, 0.31)  # of the scans, about as in OCT2017
PER_PATIENT = 19  # scans, on average
SIDE = 64  # pixels, of the source and of what is stored


def draw(folder: Path, scans: int, seed: int) -> None:
    """Write smooth noise as `scans` JPEGs of SIDE x SIDE, all different, under the names of OCT2017."""
    rng = np.random.default_rng(seed)
    for name in CLASSES:
        (folder / name).mkdir(parents=True)
    written = patient = 0
    while written < scans:
        patient += 1
        name = CLASSES[rng.choice(4, p=SHARES)]
        for number in range(1, 1 + int(min(rng.geometric(1 / PER_PATIENT), 200, scans - written))):
            write_scan(folder / name / f"{name}-{1_000_000 + patient}-{number}.jpeg", rng)
            written += 1


def write_scan(path: Path, rng: np.random.Generator) -> None:
    """Write one of these JPEGs."""
    pixels = cv2.resize(rng.integers(0, 255, (8, 6), np.uint8), (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)
    path.write_bytes(simplejpeg.encode_jpeg(pixels[:, :, None], quality=60, colorspace="GRAY"))


def started(*arguments: object) -> subprocess.Popen[bytes]:
    """A command of octprep as a process, with compiled modules, as an installed octprep has them."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-m", "octprep.cli", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)


def kill_before_report(out: Path, *arguments: object) -> None:
    """Run a build, and kill it when all is written but the report, .prepared.gz and the manifest."""
    with started(*arguments) as process:
        while process.poll() is None and not (out / WORK_NAME / "dataset_info.json").exists():
            time.sleep(0.002)
        process.kill()
    if (out / MANIFEST_NAME).exists():
        sys.exit(f"the build of {out} ended before it was killed")


def measured(scans: int, label: str, *arguments: object) -> None:
    """Run a command of octprep and print its time, CPU time for each scan, and memory."""
    start = time.perf_counter()
    with started(*arguments) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - start
    if process.returncode:
        sys.exit(f"octprep {' '.join(map(str, arguments))} ended with exit code {process.returncode}")
    cpu = usage.ru_utime + usage.ru_stime
    print(
        f"{scans:>9,} scans  {label:<28} {seconds:7.1f} s  {cpu:7.1f} s CPU  {1e3 * cpu / scans:6.2f} ms CPU a scan  "
        f"largest process {usage.ru_maxrss / 1e3:6,.0f} MB",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scans", type=int, nargs="+", default=[20_000, 100_000])
    parser.add_argument("--work", type=Path, help="folder for everything written; by default a temporary one")
    parser.add_argument("--src", type=Path, help="a folder of scans, named as in OCT2017, in place of drawn ones")
    options = parser.parse_args()
    for scans in [len(list(options.src.rglob("*.jpeg")))] if options.src else options.scans:
        with tempfile.TemporaryDirectory(dir=options.work) as folder:
            src = options.src or Path(folder, "scans")
            if not options.src:
                draw(src, scans, 0)
            measure_all(scans, src, Path(folder), () if options.src else ("--size", SIDE))


def measure_all(scans: int, src: Path, folder: Path, settings: Sequence[object]) -> None:
    """Build so many scans in all ways, into a folder, and verify them."""
    out, killed = folder / "shards", folder / "killed"
    build, again = (("build", src, "--out", place, *settings, "--quiet") for place in (out, killed))
    measured(scans, "build", *build)
    kill_before_report(killed, *again)
    measured(scans, "build, killed and resumed", *again)
    measured(scans, "build, nothing to do", *build)
    [first, *_] = src.rglob("CNV-*.jpeg")
    added = first.with_name("CNV-1-1.jpeg")
    write_scan(added, np.random.default_rng(1))
    measured(scans, "build, one scan more", *build, "--overwrite")
    added.unlink()
    measured(scans, "verify", "verify", out)
    for name in ("images.csv", ".prepared.gz", "index/train.csv", "report.html"):
        print(f"{name}: {(out / name).stat().st_size / scans:.0f} bytes a scan")


if __name__ == "__main__":
    main()
