"""Ctrl-C and SIGTERM end a program with one line, at any moment."""

import os
import signal
import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals are sent to a process")

# In the background of a shell Ctrl-C is ignored, so each program first installs Python's own handler.
START = """
import os, signal, sys, threading, time
signal.signal(signal.SIGINT, signal.default_int_handler)
from octprep.terminal import interrupts
interrupts.watch("program")
interrupts.advise("try again")
"""

CATCHES_EVERYTHING = """
interrupts.command_runs()
started = False
while True:
    try:
        if not started:
            started = True  # first, as the signal may come at once after "ready"
            print("ready", flush=True)
        time.sleep(100)
    except BaseException:
        pass
"""

IMPORTS = """
print("ready", flush=True)
try:
    time.sleep(100)
except BaseException:
    print("an import has caught it", flush=True)
"""

BLOCKED = """
interrupts.command_runs()
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
os.kill(os.getpid(), signal.SIGINT)
for _ in range(100_000):
    pass
print("ready", flush=True)  # the blocked part is done
signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
"""

SHARES_A_LOCK = """
import multiprocessing
lock = multiprocessing.get_context("spawn").Lock()
interrupts.command_runs()
print("ready", flush=True)
time.sleep(100)
"""

SAVES = """
interrupts.command_runs()
try:
    with interrupts.deferred(20):
        print("ready", flush=True)
        while not interrupts.signal_caught():
            time.sleep(0.01)
        time.sleep(2)  # longer than without a deferral
        print("saved", flush=True)
    print("went on", flush=True)
except interrupts.Interrupted:
    print("interrupted", flush=True)
    interrupts.leave()
"""

DEFERS_FOR_EVER = """
interrupts.command_runs()
with interrupts.deferred(SECONDS):
    started = False
    while True:
        try:
            if not started:
                started = True
                print("ready", flush=True)
            time.sleep(100)
        except BaseException:
            print("interrupted", flush=True)
"""


def interrupted(code, *signals, pause=0.1):
    """Standard output and error, exit code and seconds of a program that gets signals once it has printed "ready".

    pause: seconds between the signals.
    """
    process = subprocess.Popen(
        [sys.executable, "-c", START + code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    start = time.monotonic()
    for number in signals:
        process.send_signal(number)
        time.sleep(pause)
    out, err = process.communicate(timeout=30)
    return out, err, process.returncode, time.monotonic() - start


@pytest.mark.parametrize(
    ("signals", "what", "code"),
    [
        ([signal.SIGINT], "interrupted", 130),
        ([signal.SIGTERM], "ended by SIGTERM", 143),
        ([signal.SIGINT] * 2, "interrupted", 130),
        ([signal.SIGTERM, signal.SIGINT], "ended by SIGTERM", 143),
    ],
)
def test_a_program_that_catches_every_exception_is_ended(signals, what, code):
    out, err, returncode, seconds = interrupted(CATCHES_EVERYTHING, *signals)
    assert (out, err, returncode) == ("", f"program: {what}; try again.\n", code)
    assert seconds < 5  # two, and more on a busy machine


def test_a_signal_during_imports_ends_the_process_at_once():
    out, err, returncode, _ = interrupted(IMPORTS, signal.SIGINT)
    assert (out, err, returncode) == ("", "program: interrupted; try again.\n", 130)


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="no signals can be blocked")
def test_a_blocked_signal_stays_pending_in_the_main_thread():
    out, err, returncode, _ = interrupted(BLOCKED)
    assert (out, err, returncode) == ("", "program: interrupted; try again.\n", 130)


def test_shared_locks_are_not_reported_as_leaked():
    _, err, returncode, _ = interrupted(SHARES_A_LOCK, signal.SIGINT)
    assert (err, returncode) == ("program: interrupted; try again.\n", 130)


def test_an_ignored_signal_stays_ignored():
    code = START.replace("signal.default_int_handler", "signal.SIG_IGN")
    code += "os.kill(os.getpid(), signal.SIGINT); time.sleep(0.1); print('still here')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "still here\n", "")


@pytest.mark.parametrize(
    ("signals", "what", "code"),
    [
        ([signal.SIGTERM], "ended by SIGTERM", 143),
        ([signal.SIGINT], "interrupted", 130),
        ([signal.SIGTERM, signal.SIGINT], "ended by SIGTERM", 143),  # within REPEAT: one request
    ],
)
def test_a_deferred_signal_leaves_time_to_save(signals, what, code):
    out, err, returncode, _ = interrupted(SAVES, *signals)
    assert (out, err, returncode) == ("saved\ninterrupted\n", f"program: {what}; try again.\n", code)


def test_a_second_signal_ends_a_deferral():
    code = DEFERS_FOR_EVER.replace("SECONDS", "60")
    out, err, returncode, seconds = interrupted(code, signal.SIGTERM, signal.SIGINT, pause=1)
    assert (out, err, returncode) == ("interrupted\n", "program: ended by SIGTERM; try again.\n", 143)
    assert seconds < 10


def test_a_deferral_has_a_limit():
    out, err, returncode, seconds = interrupted(DEFERS_FOR_EVER.replace("SECONDS", "2"), signal.SIGTERM)
    assert (out, err, returncode) == ("", "program: ended by SIGTERM; try again.\n", 143)
    assert 1.9 < seconds < 10


def test_a_signal_after_a_deferral_ends_the_program_as_before():
    code = "interrupts.command_runs()\nwith interrupts.deferred(60):\n    pass\n" + CATCHES_EVERYTHING
    out, err, returncode, seconds = interrupted(code, signal.SIGTERM)
    assert (out, err, returncode) == ("", "program: ended by SIGTERM; try again.\n", 143)
    assert seconds < 5


def test_an_error_in_a_deferral_with_a_signal_ends_as_interrupted():
    code = """
interrupts.command_runs()
try:
    with interrupts.deferred():
        os.kill(os.getpid(), signal.SIGTERM)
        raise OSError("the disk is full")
except interrupts.Interrupted as error:
    print(repr(error.__context__), flush=True)
try:
    with interrupts.deferred():
        print("went on", flush=True)
except interrupts.Interrupted:
    print("not deferred again", flush=True)
interrupts.leave()
"""
    done = subprocess.run([sys.executable, "-c", START + code], capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("OSError('the disk is full')\nnot deferred again\n", 143)


def test_a_deferral_does_nothing_where_signals_are_not_watched():
    code = """
import os, signal
from octprep.terminal import interrupts
signal.signal(signal.SIGINT, signal.default_int_handler)
try:
    with interrupts.deferred():
        os.kill(os.getpid(), signal.SIGINT)
except KeyboardInterrupt as error:
    print(type(error).__name__)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "KeyboardInterrupt\n"


def test_only_the_main_thread_watches():
    code = (
        "import signal, threading; from octprep.terminal import interrupts; before = signal.getsignal(signal.SIGINT); "
        "thread = threading.Thread(target=interrupts.watch, args=('program',)); thread.start(); thread.join(); "
        "assert signal.getsignal(signal.SIGINT) is before"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
