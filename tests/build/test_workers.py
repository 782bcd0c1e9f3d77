"""Worker processes: results, errors, and a system that cannot start any."""

import os

import pytest

from octprep.crashes import Divisible
from octprep.format.errors import Notice, SettingError
from octprep.format.manifest import Manifest
from octprep.pipeline import build
from octprep.shards import writer
from octprep.workers import WorkerPool, default_workers
from tests.worlds.builds import CONFIG


class Part(Divisible):
    """A task of one part, which is done in a worker process."""

    part_count = 1

    def try_part(self, index):
        return None

    def without(self, reasons):
        return self


def process_id(task):
    return os.getpid()


def test_results_of_one_worker_are_in_the_order_of_the_tasks():
    with WorkerPool(1) as pool:
        assert list(pool.run(abs, [-1, 2, -3])) == [1, 2, 3]


@pytest.mark.slow
def test_results_of_several_workers_are_complete():
    with WorkerPool(2) as pool:
        assert list(pool.run(abs, [])) == []
        assert sorted(pool.run(abs, [-2, -1])) == [1, 2]
        assert sorted(pool.run(abs, list(range(-50, 0)))) == list(range(1, 51))


@pytest.mark.slow
def test_a_single_task_starts_a_single_process():
    with WorkerPool(2) as pool:
        assert pool.would_start
        [worker] = pool.run(process_id, [Part()])
        assert worker != os.getpid()
        assert pool.would_start, "no second process was started"
        assert len(set(pool.run(process_id, [Part()] * 20))) <= 2
        assert not pool.would_start


@pytest.mark.slow
def test_few_records_are_written_without_starting_another_process(source, tmp_path, monkeypatch):
    encoded, encode = [], writer.encode_with_image_offset
    monkeypatch.setattr(writer, "encode_with_image_offset", lambda record: encoded.append(record) or encode(record))
    build(source, tmp_path / "out", CONFIG, workers=2)
    manifest = Manifest.load(tmp_path / "out")
    assert len(encoded) == sum(shard.records for shards in manifest.splits.values() for shard in shards)


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
