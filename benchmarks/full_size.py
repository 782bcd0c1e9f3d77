"""The whole preparation at the archive's size: synthetic scans are drawn, inspected, built and verified by the commands
of octprep, each in a process of its own. Prints the time of each and the largest memory of one of its processes.

6,900 patients are about 84,500 scans: 6 GB of JPEGs, and 18 GB in all with the shards and the cached scans.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def timed(name: str, *arguments: object) -> list[str]:
    """Run a command of octprep, print its cost, and return the lines that it printed."""
    command = [sys.executable, "-m", "octprep.cli", name, *map(str, arguments)]
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = process.stdout.read().splitlines()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"octprep {name} ended with exit code {process.returncode}")
    seconds = time.perf_counter() - start
    cores = (usage.ru_utime + usage.ru_stime) / seconds
    print(f"octprep {name}: {seconds / 60:.1f} minutes, {cores:.1f} cores busy, {usage.ru_maxrss / 1e3:,.0f} MB")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patients", type=int, default=6900)
    parser.add_argument("--src", type=Path, help="synthetic scans that were drawn before")
    parser.add_argument("--work", type=Path, help="folder for everything written; by default a temporary one")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        work = Path(folder)
        src, shards = options.src or work / "scans", work / "shards"
        if options.src is None:
            print(timed("synthesize", src, "--patients", options.patients, "--seed", 11)[0])
        lines = timed("inspect", "--src", src, "--report", work / "inspection.html", "--json", work / "inspection.json")
        print("\n".join(line for line in lines if "scans of" in line or "near-identical" in line))
        lines = timed("build", "--src", src, "--out", shards)
        print(
            "\n".join(line for line in lines if line.startswith(("near-identical", "shares", "train", "val", "test")))
        )
        size = sum(path.stat().st_size for path in shards.rglob("*.tfrecord"))
        print(f"shards: {size / 1e9:.1f} GB; report: {(shards / 'report.html').stat().st_size / 1e6:.1f} MB")
        print("\n".join(timed("verify", shards, "--certificate", work / "certificate.txt")))


if __name__ == "__main__":
    main()
