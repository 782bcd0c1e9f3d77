"""Settings of the processes that run tests, and fixtures that several packages share."""

import os
import shutil
import signal

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome")

# A shell starts programs in the background with SIGINT ignored, and they pass that on to the programs that tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Tests compile small networks and run them for seconds: optimising the compiled code costs more than it saves.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true")

# Where several processes run tests, each computes on one core: libraries that start a thread for every core in each of
# them would mostly wait for one another.
if "PYTEST_XDIST_WORKER" in os.environ:
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        os.environ.setdefault(name, "1")


def pytest_collection_modifyitems(items):
    """Run slow modules first, so that with several processes none of them is the only one still working at the end."""
    first = (
        "test_fit",
        "test_run_folder",
        "test_leakage_experiment",
        "test_devices",
        "test_resume",
        "test_evidence",
        "test_crossval",
        "test_without_tensorflow",
        "test_cli",
        "test_predictions_csv",
        "test_prediction",
        "test_octprep_cli",
        "test_processes",
        "test_killed_builds",
        "test_near_duplicates",
        "test_pipeline",
        "test_write_report",
        "test_merged_ids",
    )
    rank = {f"{name}.py": i - len(first) for i, name in enumerate(first)}
    items.sort(key=lambda item: rank.get(item.path.name, 0))


@pytest.fixture(scope="module")
def browser():
    """An installed Chromium, driven by Playwright."""
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright drives the browser")
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed")
    disabled = ("quic", "background-networking", "component-update", "sync", "gpu")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(
            executable_path=program,
            args=["--no-sandbox", "--no-first-run", *(f"--disable-{name}" for name in disabled)],
        )
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def synthetic_source(tmp_path_factory):
    """Synthetic scans, with near-duplicates of four of them under other ids. Only to be read."""
    from octprep.synthetic import draw

    src = tmp_path_factory.mktemp("synthetic") / "src"
    draw(src, patients=24, seed=7, workers=2)
    return src


@pytest.fixture(scope="session")
def synthetic_shards(synthetic_source, tmp_path_factory):
    """The finished folder of the synthetic scans, with the default settings. Only to be read."""
    from octprep.format.config import BuildConfig
    from octprep.pipeline import build

    out = tmp_path_factory.mktemp("synthetic_out") / "shards"
    build(synthetic_source, out, BuildConfig(), workers=2)
    return out


@pytest.fixture(scope="session")
def failing_disk(tmp_path_factory):
    """The library for `tests.worlds.disks.run_on_failing_disk`."""
    from tests.worlds.disks import compile_library, require_failing_disks

    require_failing_disks()
    return compile_library(tmp_path_factory.mktemp("disk"))
