import os
import signal
import subprocess
import sys
import time

import pytest

SLEEPER = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)
from octtrain import interrupts
interrupts.watch()
interrupts.command_runs()
interrupts.advise("go on by hand")
ready = "ready"
while True:
    try:
        if ready:
            print(ready, flush=True)
            ready = ""
        time.sleep(100)
    except BaseException:
        pass
"""


@pytest.mark.skipif(os.name == "nt", reason="signals are sent to a process")
@pytest.mark.parametrize(
    ("number", "word", "code", "times"),
    [
        (signal.SIGINT, "interrupted", 130, 1),
        (signal.SIGTERM, "terminated", 143, 1),
        (signal.SIGINT, "interrupted", 130, 2),
    ],
)
def test_an_interruption_that_a_library_swallows_still_ends_the_program(number, word, code, times):
    process = subprocess.Popen(
        [sys.executable, "-c", SLEEPER], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    for _ in range(times):
        process.send_signal(number)
        time.sleep(0.1)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (code, f"octtrain: {word}; go on by hand.\n")
