"""`--cluster`: the results of a local run, also where workers die, and one sentence for everything that goes wrong."""

import os
import signal
import subprocess
import time
from contextlib import contextmanager, nullcontext

import pytest

from octprep import __version__, inspection
from octprep.format.errors import Notice, SettingError, StoppedError
from octprep.format.manifest import MANIFEST_NAME
from octprep.inspection import features
from octprep.pipeline import build
from octprep.source.listing import list_source
from octprep.verification import verify
from octprep.workers import WorkerPool, no_progress, open_pool
from tests.worlds.archive import files_of
from tests.worlds.builds import CONFIG, cache_of, octprep, receipts, start_build, wait_until
from tests.worlds.clusters import ROOT, local_cluster

distributed = pytest.importorskip("distributed")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name == "nt", reason="SIGKILL is a POSIX signal")]

NAMED = r"^the worker on \S+ \(tcp://127\.0\.0\.1:\d+\)"
NOTICE = r"--cluster .*: \d workers? with \d threads?"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with local_cluster(tmp_path_factory.mktemp("dask") / "cluster", workers=3) as running:
        yield running


def finish(process):
    """The lines on standard error of a process that ends soon, but for the first: what it is connected to."""
    try:
        _, errors = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    notice, *lines = errors.splitlines()
    assert notice.startswith("octprep: --cluster ")
    return lines


def test_a_build_on_a_cluster_gives_the_same_files(cluster, large_source, large_shards, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the workers have another working directory
    with pytest.warns(Notice, match=rf"{NOTICE}; dashboard: http://127.0.0.1:\d+/status"):
        build(os.path.relpath(large_source), "out", CONFIG, cluster=cluster.file)
    assert files_of(tmp_path / "out") == files_of(large_shards)
    done = [cluster.log(worker) for worker in cluster.workers]
    assert all("Traceback" not in log for log in done)


def test_verify_and_inspect_give_the_same_results(cluster, large_source, large_shards, tmp_path):
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for name, content in files_of(large_shards).items():
        (damaged / name).parent.mkdir(exist_ok=True, parents=True)
        (damaged / name).write_bytes(content[:-1] if name.startswith("val/00000") else content)
    with pytest.warns(Notice, match=NOTICE):
        on_cluster = verify(damaged, cluster=cluster.file)
    assert on_cluster.violations
    assert on_cluster == verify(damaged, workers=1)
    with pytest.warns(Notice, match=NOTICE):
        inspected = inspection.inspect(large_source, quick=True, cluster=cluster.file)
    assert inspected.to_json() == inspection.inspect(large_source, quick=True, workers=1).to_json()


def test_the_measurements_of_a_full_inspection_are_the_same(cluster, source):
    listing = list_source(source)
    with pytest.warns(Notice, match=NOTICE), open_pool(None, cluster.file) as pool:
        measured = features.measure_scans(source, listing, pool, no_progress)
    with WorkerPool(1) as pool:
        assert measured == features.measure_scans(source, listing, pool, no_progress)


def test_an_interrupted_build_drops_its_tasks_on_the_cluster(cluster, large_source, tmp_path):
    process = start_build(large_source, tmp_path / "out", "--cluster", cluster.file)
    wait_until(lambda: bool(receipts(tmp_path / "out")), process)
    process.send_signal(signal.SIGINT)
    assert finish(process) == ["octprep: interrupted; run the same command to resume."]
    assert process.returncode == 130
    with distributed.Client(scheduler_file=str(cluster.file), set_as_default=False) as client:
        limit = time.monotonic() + 10
        while left := client.run_on_scheduler(lambda dask_scheduler: list(map(str, dask_scheduler.tasks))):
            assert time.monotonic() < limit, left
            time.sleep(0.1)


@contextmanager
def removed_again(cluster):
    """Workers that are added in the block are killed after it."""
    before = len(cluster.workers)
    try:
        yield
    finally:
        for worker in cluster.workers[before:]:
            cluster.kill(worker)
        del cluster.workers[before:]


@pytest.mark.parametrize("joins", ["before", "during the build"])
def test_a_worker_with_another_version_is_refused_by_name(cluster, large_source, tmp_path, joins):
    info = tmp_path / "packages" / "octprep-9.9.9.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: octprep\nVersion: 9.9.9\n")
    variables = {"PYTHONPATH": os.pathsep.join([str(info.parent), str(ROOT)])}
    out = tmp_path / "out"

    def progress(stage, done, total):
        if joins != "before" and stage == "preparing scans" and not done:  # connected, and no task is sent yet
            cluster.add_workers(1, variables)

    with removed_again(cluster):
        if joins == "before":
            cluster.add_workers(1, variables)
        with (
            pytest.raises(SettingError, match=rf"{NAMED} has octprep 9\.9\.9, and this program {__version__}: "),
            nullcontext() if joins == "before" else pytest.warns(Notice, match=NOTICE),
        ):
            build(large_source, out, CONFIG, cluster=cluster.file, progress=progress)
    assert joins != "before" or not out.exists()


@pytest.mark.parametrize("hidden", ["source", "output"])
def test_a_worker_that_does_not_see_the_files_is_named(cluster, large_source, tmp_path, hidden):
    out = tmp_path / "out"
    out.mkdir()
    # As on a machine on which a disk is not mounted: the folder is there, and empty.
    mount = f"mount -t tmpfs tmpfs '{large_source if hidden == 'source' else out}'"
    if subprocess.run(["unshare", "-m", "sh", "-c", mount], capture_output=True).returncode:
        pytest.skip("hiding a folder from a process needs root")
    with removed_again(cluster):
        cluster.add_workers(1, prefix=["unshare", "-m", "sh", "-c", f'{mount} && exec "$@"', "sh"])
        folder = rf"{large_source}/\S+" if hidden == "source" else out
        with (
            pytest.raises(SettingError, match=f"{NAMED} does not see the files in {folder} that this program sees"),
            nullcontext() if hidden == "source" else pytest.warns(Notice, match=NOTICE),
        ):
            build(large_source, out, CONFIG, cluster=cluster.file)


def test_the_tasks_of_a_killed_worker_are_done_by_others(cluster, large_source, large_shards, tmp_path):
    process = start_build(large_source, tmp_path / "out", "--cluster", cluster.file)
    wait_until(lambda: bool(receipts(tmp_path / "out")), process)
    os.killpg(cluster.workers[0].pid, signal.SIGSTOP)  # it has tasks, which it will not finish
    time.sleep(0.5)
    assert process.poll() is None, "the build was over before a worker could be killed"
    cluster.kill(cluster.workers.pop(0))
    assert finish(process) == []
    assert process.returncode == 0
    assert files_of(tmp_path / "out") == files_of(large_shards)


def test_a_lost_scheduler_ends_the_build_with_one_sentence_and_a_local_run_resumes(
    large_source, large_shards, tmp_path
):
    out = tmp_path / "out"
    with local_cluster(tmp_path / "cluster", workers=1) as cluster:
        process = start_build(large_source, out, "--cluster", cluster.file)
        wait_until(lambda: bool(receipts(out)), process)
        cluster.kill(cluster.scheduler)
        lines = finish(process)
    assert len(lines) == 1
    assert lines[0].startswith(f"octprep: the connection to the Dask scheduler --cluster {cluster.file} was lost: it ")
    assert process.returncode == StoppedError.exit_code
    assert receipts(out) and not (out / MANIFEST_NAME).exists()
    build(large_source, out, CONFIG, workers=1)
    assert files_of(out) == files_of(large_shards)


def test_without_workers_a_build_waits_and_ends_with_one_sentence(large_source, tmp_path):
    out = tmp_path / "out"
    with local_cluster(tmp_path / "cluster", workers=0) as cluster:
        with pytest.raises(StoppedError, match=r"has had no worker for 0\.5 s"):
            build(large_source, out, CONFIG, cluster=cluster.file, cluster_wait=0.5)
        assert not out.exists()
        cluster.add_workers(1)
        process = start_build(large_source, out, "--cluster", cluster.file, "--cluster-wait", 2)
        wait_until(lambda: bool(receipts(out)), process)
        cluster.kill(cluster.workers[0])
        lines = finish(process)
    assert len(lines) == 1
    assert lines[0].startswith(f"octprep: --cluster {cluster.file} has had no worker for 2 s. What is done is kept")
    assert process.returncode == StoppedError.exit_code
    assert list(cache_of(out).glob("*.json"))


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("tcp://127.0.0.1:1", "no Dask scheduler answers at tcp://127.0.0.1:1 within"),
        ("tcp://127.0.0.1", "as a scheduler file it does not exist"),
        ("{folder}", r"as a scheduler file it cannot be read \(Is a directory\)"),
        ("{file}", "as a scheduler file it names no scheduler"),
    ],
)
def test_a_wrong_address_is_one_sentence(large_source, tmp_path, monkeypatch, address, message):
    monkeypatch.setattr("octprep.cluster._CONNECT", 0.5)
    (tmp_path / "file").write_text("[1]")
    address = address.format(folder=tmp_path, file=tmp_path / "file")
    with pytest.raises(SettingError, match=message):
        build(large_source, tmp_path / "out", CONFIG, cluster=address)
    assert not (tmp_path / "out").exists()


def test_the_number_of_workers_is_the_clusters_own(large_source, tmp_path):
    command = octprep("build", large_source, tmp_path / "out", "--cluster", "tcp://127.0.0.1:1", "--workers", 2)
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "octprep: --workers 2 is for this machine, and --cluster tcp://127.0.0.1:1 has its own workers; "
        "give one of them.\n"
    )
