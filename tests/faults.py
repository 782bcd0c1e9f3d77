"""Random faults: builds that are killed at any moment, and finished folders that are damaged anywhere.

    python tests/faults.py --kills 100 --damages 1000 --seed 0

A build that was killed is run again, by the same command, until it ends: the dataset must be that of an undisturbed
build, and no other file or process may be left. Of every damage to a finished folder `octprep verify` must tell,
octtrain must not open the folder if it reads the damaged file, and the same `octprep build` must bring back the bytes
of before. The seed repeats the damages, and which signals are sent to which process after which time.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from octprep.format import images_csv
from octprep.format.errors import ManifestError, Notice, OutputError
from octprep.format.manifest import DUPLICATES_NAME, MANIFEST_NAME, REPORT_NAME, Manifest
from octprep.pipeline import build
from octprep.shards.tfds import TFDS_NAMES
from octprep.verification import verify
from octtrain.data.mapped import MappedImages
from tests.worlds.archive import archive, files_of, write_folder
from tests.worlds.builds import CONFIG, start_build, workers_of

VICTIMS = ("the program", "a worker", "all processes", "the program by SIGTERM")
HOW = ("flip a bit", "cut", "append", "overwrite", "remove", "swap")


# Kills


def kill_builds(root: Path, source: Path, kills: int, rng: random.Random) -> Counter[str]:
    """Kill builds of a source until `kills` hit one; how many of each kind. Raises AssertionError if one is not mended.

    root: an empty folder to build in.
    """
    began = time.monotonic()
    finish(start_build(source, root / "undisturbed", "--workers", 2))
    duration = time.monotonic() - began
    expected = files_of(root / "undisturbed")
    counts: Counter[str] = Counter()
    while counts.total() < kills:
        out = root / f"out{counts.total()}"
        while True:  # one folder, until its build ends: every kill but the first is of a build that resumes
            victim, delay = rng.choice(VICTIMS), rng.uniform(0, duration)
            hit = rng.random() < 0.8 and counts.total() < kills and kill_one(source, out, victim, delay)
            if not hit:
                finish(start_build(source, out, "--workers", 2))
                break
            counts[victim] += 1
            if counts.total() % 10 == 0:
                print(f"{counts.total()} kills", flush=True)
        assert files_of(out) == expected, f"{out} differs from an undisturbed build after {counts.total()} kills"
        shutil.rmtree(out)
    return counts


def kill_one(source: Path, out: Path, victim: str, delay: float) -> bool:
    """Start a build and send a signal after a time in seconds; whether it was still running."""
    process = start_build(source, out, "--workers", 2)
    try:
        process.communicate(timeout=delay)
        return False
    except Exception:  # the time is over
        workers = workers_of(process.pid)
    target = workers[len(workers) // 2] if victim == "a worker" and workers else process.pid
    with suppress(ProcessLookupError):
        if victim == "all processes":
            os.killpg(process.pid, signal.SIGKILL)
        else:
            os.kill(target, signal.SIGTERM if victim.endswith("SIGTERM") else signal.SIGKILL)
    _, errors = process.communicate(timeout=120)
    assert "Traceback" not in errors, errors
    assert_none_left(process.pid)
    return process.returncode != 0


def finish(process) -> None:
    """Wait for a build that must end well."""
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    assert_none_left(process.pid)


def assert_none_left(group: int) -> None:
    """Raise AssertionError if a process of a group is left after 20 seconds."""
    for _ in range(200):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    raise AssertionError(f"processes of the group {group} are left")


# Damages


def damage_folders(root: Path, source: Path, damages: int, rng: random.Random) -> Counter[str]:
    """Damage a finished folder, again and again; how many damages of each kind. Raises AssertionError for one missed.

    root: an empty folder to build in. source: small, as it is built again after many damages.
    """
    out = root / "out"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Notice)
        manifest = build(source, out, CONFIG, workers=0).manifest
        expected = files_of(out)
        counts: Counter[str] = Counter()
        while counts.total() < damages:
            how, names = damage_one(out, expected, rng)
            if files_of(out) == expected:
                continue
            counts[how] += 1
            shown = f"damage {counts.total()}, {how}: {', '.join(names)}"
            may_be_missing = how == "remove" and set(names) <= set(TFDS_NAMES)  # `octprep index` writes them again
            assert may_be_missing or is_reported(out), f"{shown}: octprep verify does not tell"
            if any(is_read(name) for name in names) and not (names == [MANIFEST_NAME] and says_the_same(out, manifest)):
                assert is_refused(out), f"{shown}: octtrain opens the folder"
            try:
                build(source, out, CONFIG, workers=0)
            except OutputError as error:
                assert MANIFEST_NAME in names and "--overwrite" in str(error), f"{shown}: {error}"
                build(source, out, CONFIG, workers=0, overwrite=True)
            left = files_of(out)
            differing = sorted(name for name in left.keys() | expected.keys() if left.get(name) != expected.get(name))
            assert not differing, f"{shown}: the same build does not mend {differing}"
            if counts.total() % 100 == 0:
                print(f"{counts.total()} damages", flush=True)
    return counts


def damage_one(out: Path, expected: dict[str, bytes], rng: random.Random) -> tuple[str, list[str]]:
    """Damage a random file but the report, a kind of file as often as another; how, and the names of what changed."""
    kinds: dict[str, list[str]] = {}
    for name in sorted(expected.keys() - {REPORT_NAME}):
        kinds.setdefault(Path(name).suffix if "/" in name else name, []).append(name)
    names = kinds[rng.choice(sorted(kinds))]
    name, how = rng.choice(names), rng.choice(HOW)
    path, data = out / name, bytearray(expected[name])
    if how == "swap":
        other = rng.choice(names if len(names) > 1 else sorted(expected.keys() - {REPORT_NAME}))
        if rng.random() < 0.5:  # the contents, or the files with their times of change
            path.write_bytes(expected[other])
            (out / other).write_bytes(data)
        else:
            path.rename(out / "between")
            (out / other).rename(path) if other != name else None
            (out / "between").rename(out / other)
        return how, [name, other]
    if how == "remove":
        path.unlink()
        return how, [name]
    position, count = rng.randrange(len(data) or 1), rng.choice((1, 4, 1000))
    if how == "flip a bit" and data:
        data[position] ^= 1 << rng.randrange(8)
    elif how == "cut":
        del data[position:]
    elif how == "append":
        data += rng.choice((rng.randbytes(count), bytes(count), b"\n", bytes(data)))
    else:
        data[position : position + count] = rng.randbytes(count)
    path.write_bytes(data)
    return how, [name]


def is_reported(out: Path) -> bool:
    """Whether `octprep verify` tells of a damage: a violation, a note on the index, or no manifest to begin with."""
    try:
        result = verify(out, workers=0)
    except ManifestError:
        return True
    return bool(result.violations or result.notes)


def is_read(name: str) -> bool:
    """Whether octtrain reads a file of a folder."""
    return name not in (DUPLICATES_NAME, *TFDS_NAMES) and not name.endswith(".idx")


def says_the_same(out: Path, manifest: Manifest) -> bool:
    """Whether a folder's manifest has the content of another, in whatever bytes."""
    try:
        return Manifest.load(out) == manifest
    except ManifestError:
        return False


def is_refused(out: Path) -> bool:
    """Whether octtrain refuses to open a folder, as `octtrain fit` does before it trains."""
    try:
        manifest = Manifest.load(out)
        splits = tuple(manifest.splits)
        manifest.check_files(out, splits)
        rows = images_csv.read_checked(out, manifest).rows
        MappedImages(out, splits, manifest=manifest, rows=rows)
    except ManifestError:
        return True
    return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--damages", type=int, default=1000)
    parser.add_argument("--scans", type=int, default=2000, help="of the builds that are killed, about")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name in ("damaged", "killed"):
            (root / name).mkdir()
        few = write_folder(root / "few", archive(2, {"CNV": 2, "DME": 1, "DRUSEN": 1, "NORMAL": 2}))
        began = time.monotonic()
        damages = damage_folders(root / "damaged", few, options.damages, random.Random(options.seed))
        print(f"{damages.total()} damages in {time.monotonic() - began:.0f} s, all found and mended: {dict(damages)}")
        each = max(1, options.scans // 20)
        many = write_folder(root / "many", archive(5, dict.fromkeys(("CNV", "DME", "DRUSEN", "NORMAL"), each)))
        began = time.monotonic()
        kills = kill_builds(root / "killed", many, options.kills, random.Random(options.seed))
        print(
            f"{kills.total()} kills in {time.monotonic() - began:.0f} s, all resumed to the same bytes: {dict(kills)}"
        )


if __name__ == "__main__":
    main()
