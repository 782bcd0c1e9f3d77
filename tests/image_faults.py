"""Odd and damaged image files: each must give the right gray values, or a reason why it cannot be used.

    python tests/image_faults.py --odd 2000 --damaged 2000 --seed 0

The seed repeats the files. A file that takes longest, or that ends the program, is the last one named.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from octprep import preprocessing
from octprep.format.errors import UnreadableImage
from tests.worlds.image_files import damaged, draw_image_file

MAX_SECONDS = 10.0  # for one file, which has some 10,000 pixels


def read_odd_file(seed: int) -> str:
    """Read the file of a seed; returns what came of it. Raises AssertionError if that is not what must."""
    file = draw_image_file(seed)
    try:
        gray, flags = preprocessing.decode_with_flags(file.data)
    except UnreadableImage as error:
        assert file.reason and file.reason in str(error), f"seed {seed}, {file.kind}: {error}"
        return f"{file.kind}: {error}"
    assert not file.reason, f"seed {seed}, {file.kind} was read"
    assert flags == file.flags, f"seed {seed}, {file.kind}: flags {flags}"
    assert file.gray is None or np.array_equal(gray, file.gray), f"seed {seed}, {file.kind}: other pixels"
    return file.kind


def read_damaged_file(seed: int) -> str:
    """Read the damaged file of a seed; returns what came of it. Raises AssertionError for no pixels and no reason."""
    data = damaged(draw_image_file(seed).data, seed)
    began = time.monotonic()
    try:
        gray, _ = preprocessing.decode_with_flags(data)
        assert gray.dtype == np.uint8 and gray.ndim == 2 and min(gray.shape) >= 64, f"seed {seed}: {gray.shape}"
        outcome = "read all the same"
    except UnreadableImage as error:
        assert str(error).isprintable(), f"seed {seed}: {error!r}"
        outcome = str(error).partition(":")[0]
    assert time.monotonic() - began < MAX_SECONDS, f"seed {seed} took {time.monotonic() - began:.0f} s"
    return outcome


def main() -> None:
    """Read the files that the command line asks for, and count what came of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--odd", type=int, default=2000)
    parser.add_argument("--damaged", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0, help="of the first file; the others follow")
    given = parser.parse_args()
    for name, read, count in (("odd", read_odd_file, given.odd), ("damaged", read_damaged_file, given.damaged)):
        counts: Counter[str] = Counter()
        for seed in range(given.seed, given.seed + count):
            counts[read(seed)] += 1
        print(f"{count:,} {name} files:")
        for outcome, number in counts.most_common():
            print(f"{number:>7,}  {outcome}")


if __name__ == "__main__":
    main()
