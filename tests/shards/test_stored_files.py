"""What is stored of each file comes back as it was, and takes little memory."""

import dataclasses
import hashlib
import random
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

from octprep.shards.cache import CachedScan, KnownFile
from octprep.shards.stored_files import StoredFiles, StoredScans
from octprep.source.files import Exclusion, Scan, ScanFile

COUNT = 5000


def listed(number):
    label = ("CNV", "DME")[number % 2]
    return ScanFile(
        f"{label}/{label}-{1_000_000 + number // 19}-{number % 19}.jpeg",
        label,
        str(1_000_000 + number // 19),
        number % 19,
        "train",
        300 + number,
        source="site",
        eye="OD",
        volume="7",
        axial_um=3.9,
        frame=number % 3,
        modified_ns=10**18 + number,
        changed_ns=10**18 + 2 * number,
        linked=number % 5 == 0,
    )


def known(number):
    file = listed(number)
    if number % 10 == 9:
        return KnownFile(Exclusion(file.path, "truncated JPEG"), file.bytes, file.changed_ns)
    digests = [hashlib.sha256(f"{kind} {number}".encode()).digest() for kind in ("file", "pixels")]
    values = {field.name: getattr(file, field.name) for field in dataclasses.fields(ScanFile)}
    scan = Scan(**values, digests=b"".join(digests), height=496, width=512)
    frame = bytes(12) if number % 4 else b""
    details = random.Random(number).randbytes(380)
    return KnownFile(
        CachedScan(scan, details, f"{number // 64:06d}.bin", 50_176 * (number % 64), 50_176, number, frame),
        file.bytes,
        file.changed_ns,
    )


def test_files_come_back_as_they_were_stored_also_to_several_threads(tmp_path):
    files = [known(number) for number in range(300)]
    stored = StoredFiles(tmp_path)
    for file in random.Random(0).sample(files, len(files)):
        stored.append(file)
    stored.sort()
    expected = sorted(files, key=lambda file: file.path)
    assert list(stored) == expected and stored[-3:] == expected[-3:]
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(stored.__getitem__, range(len(stored)))) == expected

    scans = [file.result for file in expected if isinstance(file.result, CachedScan)]
    assert list(StoredScans(stored)) == scans
    paths = {scan.scan.path for scan in scans[::7]}
    assert list(StoredScans(stored, paths)) == scans[::7]

    changed = dataclasses.replace(scans[5], details=b"changed", frame=b"")
    index = next(index for index, file in enumerate(stored) if file.result == scans[5])
    stored.replace(index, dataclasses.replace(stored[index], result=changed))
    stored.keep([index, 2])
    assert [file.result for file in stored] == [changed, expected[2].result]
    assert not list(tmp_path.iterdir()), "the temporary file has no name"


def test_a_known_file_takes_all_that_is_listed_of_it_now():
    before, now = known(1), dataclasses.replace(listed(2), path=listed(1).path)
    values = [getattr(before.as_listed(now).result.scan, field.name) for field in dataclasses.fields(ScanFile)]
    assert values == [getattr(now, field.name) for field in dataclasses.fields(ScanFile)]
    assert before.as_listed(now).result.frame == b"" != before.result.frame, "its record says what was listed before"
    assert before.as_listed(listed(1)) == before


def test_a_file_that_is_stored_takes_few_bytes_of_memory(tmp_path):
    files = [listed(number) for number in range(COUNT)]  # the listing, which is there already
    for number in range(100):  # what is made once
        known(number)
    stored = StoredFiles(tmp_path)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for number, file in enumerate(files):
            stored.append(known(number).as_listed(file))
        each = (tracemalloc.get_traced_memory()[0] - before) / COUNT
    finally:
        tracemalloc.stop()
    assert len(stored) == COUNT
    assert each < 500, f"{each:.0f} bytes a file; a million must fit into 1.5 GB with all else"
