"""The rate of `octprep build`, the whole command, against a bare loop that only decodes, denoises and resizes.

Both read the same synthetic scans with as many processes. Prints both rates, the build's peak memory, and the
ratio of the rates.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np


def bare_loop(paths: list[Path]) -> int:
    """Decode, median of 3, area resize to 224x224; nothing is kept."""
    cv2.setNumThreads(1)
    for path in paths:
        gray = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_GRAYSCALE)
        cv2.resize(cv2.medianBlur(gray, 3), (224, 224), interpolation=cv2.INTER_AREA)
    return len(paths)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patients", type=int, default=640, help="about 12 scans each")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    octprep = [sys.executable, "-m", "octprep.cli"]
    with tempfile.TemporaryDirectory() as folder:
        src, out = Path(folder, "scans"), Path(folder, "shards")
        subprocess.run(
            [*octprep, "synthesize", str(src), "--no-faults", "--patients", str(options.patients)], check=True
        )
        paths = sorted(src.rglob("*.jpeg"))
        start = time.perf_counter()
        with multiprocessing.get_context("spawn").Pool(options.workers) as pool:
            done = sum(pool.imap_unordered(bare_loop, [paths[i : i + 64] for i in range(0, len(paths), 64)]))
        bare_rate = done / (time.perf_counter() - start)
        start = time.perf_counter()
        build = [*octprep, "build", "--src", str(src), "--out", str(out), "--workers", str(options.workers)]
        subprocess.run(build, check=True, stdout=subprocess.DEVNULL)
        build_rate = done / (time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e3
    print(f"{done:,} synthetic scans, {options.workers} processes")
    print(f"bare loop      {bare_rate:8.0f} images/s")
    print(f"octprep build  {build_rate:8.0f} images/s, at most {peak:.0f} MB a process")
    print(f"ratio {build_rate / bare_rate:.2f}")


if __name__ == "__main__":
    main()
