"""What both command lines share: output streams, interruptions, and the frame in which a program runs."""

from octprep.terminal.program import run_program, warn
from octprep.terminal.streams import discard_stdout, printable, say, stdout_error

__all__ = ["discard_stdout", "printable", "run_program", "say", "stdout_error", "warn"]
