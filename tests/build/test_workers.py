"""Worker processes: results, errors, and a system that cannot start any."""

import os

import pytest

from octprep.format.errors import Notice, SettingError
from octprep.workers import WorkerPool, default_workers


def test_results_of_one_worker_are_in_the_order_of_the_tasks():
    with WorkerPool(1) as pool:
        assert list(pool.run(abs, [-1, 2, -3])) == [1, 2, 3]


@pytest.mark.slow
def test_results_of_several_workers_are_complete():
    with WorkerPool(2) as pool:
        assert list(pool.run(abs, [])) == []
        assert sorted(pool.run(abs, [-2, -1])) == [1, 2]
        assert sorted(pool.run(abs, list(range(-50, 0)))) == list(range(1, 51))


def test_the_number_of_workers_must_be_positive_and_is_by_default_that_of_the_cores():
    with pytest.raises(SettingError, match="workers must be 1 or more, or 0 to start no process; got -1"):
        WorkerPool(-1)
    assert WorkerPool(None).workers == default_workers() >= 1


def test_without_file_descriptors_this_process_does_all_the_work_and_warns():
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.open(os.devnull, os.O_RDONLY)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + 4, hard))
    try:
        with pytest.warns(Notice, match=r"Too many open files\), so this process"), WorkerPool(2) as pool:
            assert list(pool.run(abs, [-1, -2, -3])) == [1, 2, 3]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
