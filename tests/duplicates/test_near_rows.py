"""A search that goes on from an earlier one finds what a search of all rows finds, to the last bit."""

import base64
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from octprep.duplicates import DESCRIPTOR_BYTES, lsh, search
from octprep.duplicates.near_rows import NearRows, NearRowsMemory, row_ids
from octprep.duplicates.unique_rows import unique_descriptors

SCANS = 1500


@pytest.fixture(scope="module")
def scans():
    """Descriptors in clusters, and their patients; some are equal, and some have more near ones than are kept."""
    rng = np.random.default_rng(0)
    centres = rng.normal(0, 30, (60, DESCRIPTOR_BYTES))
    rows = centres[rng.integers(0, 60, SCANS)] + rng.normal(0, 4, (SCANS, DESCRIPTOR_BYTES))
    rows[-80:] = rows[:80]
    patients = np.array([f"P{patient}" for patient in rng.integers(0, 500, SCANS)])
    return np.clip(np.rint(rows), -127, 127).astype(np.int8).view(np.uint8), patients


def searched(descriptors, patients, memory):
    """The near pairs of scans, by their rows' descriptors, after a search with a memory."""
    names, index = np.unique(patients, return_inverse=True)
    unique = unique_descriptors(np.ascontiguousarray(descriptors), index)
    with ThreadPoolExecutor(1) as threads:
        found = search._remembered(unique, row_ids(unique, names.tolist()), memory, threads)
    return sorted(zip(*(values.tolist() for values in found), strict=True))


def after(descriptors, patients):
    """The memory after a search, as the next program reads it."""
    memory = NearRowsMemory()
    searched(descriptors, patients, memory)
    return NearRowsMemory([NearRows.from_json(memory.used[0].to_json())])


def refused(*_):
    raise AssertionError("all rows are searched")


@pytest.mark.parametrize("added", [0, 1, 5, 40])
def test_a_few_more_scans_are_compared_with_those_of_an_earlier_search(scans, added, monkeypatch):
    descriptors, patients = scans
    parameters = lsh.medians_and_deviations(unique_descriptors(descriptors, np.arange(SCANS)))
    for module in (lsh, search):  # with so few rows they change too often
        monkeypatch.setattr(module, "medians_and_deviations", lambda _: parameters)
    expected = searched(descriptors, patients, NearRowsMemory())
    assert len(expected) > SCANS
    before = np.delete(np.arange(SCANS), np.arange(203, 203 + 2 * added, 2))
    memory = after(descriptors[before], patients[before])
    monkeypatch.setattr(search, "_near_rows", refused)
    assert searched(descriptors, patients, memory) == expected
    assert len(memory.used[0].ids) == len(np.unique(descriptors, axis=0))


def test_a_scan_of_another_patient_with_a_known_descriptor_is_a_new_row(scans, monkeypatch):
    descriptors, patients = scans
    before = np.arange(SCANS - 1)  # the last is equal to another
    expected = searched(descriptors, patients, NearRowsMemory())
    memory = after(descriptors[before], patients[before])
    assert searched(descriptors[before], patients[before], memory) != expected
    assert searched(descriptors, patients, memory) == expected


@pytest.mark.parametrize("change", ["a scan is gone", "many are new", "a patient is another", "other medians"])
def test_where_the_earlier_search_does_not_suffice_all_rows_are_searched(scans, change, monkeypatch):
    descriptors, patients = scans
    before = patients.copy()
    memory = after(descriptors[:-200], patients[:-200]) if change == "many are new" else None
    if change == "a patient is another":
        before[:100] = "Q"
    elif change == "other medians":
        memory = after(descriptors[SCANS // 2 :], patients[SCANS // 2 :])
    memory = memory or after(descriptors, before)
    now = slice(1, None) if change == "a scan is gone" else slice(None)
    expected = searched(descriptors[now], patients[now], NearRowsMemory())
    assert searched(descriptors[now], patients[now], memory) == expected
    monkeypatch.setattr(search, "_near_rows", refused)
    with pytest.raises(AssertionError, match="all rows are searched"):
        searched(descriptors[now], patients[now], memory)


def test_a_crowded_bucket_lets_all_rows_be_searched(scans, monkeypatch):
    descriptors, patients = scans
    monkeypatch.setattr(lsh, "_MAX_BUCKET", 8)
    expected = searched(descriptors, patients, NearRowsMemory())
    assert searched(descriptors, patients, after(descriptors[1:], patients[1:])) == expected


def test_too_many_pairs_are_not_kept(scans, monkeypatch):
    memory = NearRowsMemory()
    searched(*scans, memory)
    monkeypatch.setattr("octprep.duplicates.near_rows._MAX_PAIRS", 100)
    assert memory.used[0].to_json() is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("first", base64.b64encode(b"\xff" * 4)),
        ("ids", b""),
        ("distance", b""),
        ("distance", b"?"),
        ("median", b"AAA"),
        ("second", None),
    ],
)
def test_what_is_not_as_it_was_written_is_refused(name, value):
    ids, pairs = np.arange(3, dtype=np.uint64), search.RowPairs(np.array([0]), np.array([2]), np.zeros(1, np.float32))
    data = NearRows(ids, np.zeros(96, np.int16), np.ones(96, np.float32), pairs).to_json()
    assert NearRows.from_json(data).pairs.second.tolist() == [2]
    with pytest.raises((ValueError, TypeError)):
        NearRows.from_json({**data, name: value and value.decode()})
