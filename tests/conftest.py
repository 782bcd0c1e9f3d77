"""What every test relies on."""

import os
import signal

# A shell starts programs in the background with SIGINT ignored, and they pass that on to the programs that tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Where several processes run tests, each computes on one core: libraries that start a thread for every core in each of
# them would mostly wait for one another.
if "PYTEST_XDIST_WORKER" in os.environ:
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        os.environ.setdefault(name, "1")


def pytest_collection_modifyitems(items):
    """Modules that take long first: where several processes share the modules out, none is left alone with one."""
    first = (
        "test_fit",
        "test_run_folder",
        "test_leakage_experiment",
        "test_jax",
        "test_cli",
        "test_predictions_csv",
        "test_prediction",
        "test_octprep_cli",
        "test_processes",
        "test_killed_builds",
        "test_near_duplicates",
        "test_pipeline",
        "test_report",
    )
    rank = {f"{name}.py": i - len(first) for i, name in enumerate(first)}
    items.sort(key=lambda item: rank.get(item.path.name, 0))
