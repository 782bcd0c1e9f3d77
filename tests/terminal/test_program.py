"""run_program: the exit code and the message of each error."""

import subprocess
import sys
import warnings

import pytest

from octprep.format.errors import Notice, OctError, SettingError
from octprep.terminal import run_program, say
from octprep.terminal.streams import PIPE_CLOSED, ReaderClosed


@pytest.fixture(autouse=True)
def _warnings_are_shown_as_before(monkeypatch):
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)


def run(command):
    run_program("program", command, memory_advice="close other programs", watch=False)


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (OctError("the folder is empty."), 1, "the folder is empty."),
        (SettingError("size must be positive; got 0"), 2, "size must be positive; got 0"),
        (OctError("a\x1b[31m\nname"), 1, "a\\x1b[31m\\nname"),
        (PermissionError(13, "Permission denied", "x"), 1, "[Errno 13] Permission denied: 'x'"),
        (MemoryError(), 1, "memory ran out; close other programs."),
        (OSError(12, "Cannot allocate memory"), 1, "memory ran out; close other programs."),
        (
            ImportError("libaom.so: failed to map segment from shared object"),
            1,
            "memory ran out while a library was loaded (libaom.so: failed to map segment from shared object); close "
            "other programs.",
        ),
    ],
)
def test_an_error_is_one_sentence_and_an_exit_code(capsys, error, code, sentence):
    def command():
        raise error

    with pytest.raises(SystemExit) as ended:
        run(command)
    assert (ended.value.code, capsys.readouterr().err) == (code, f"program: {sentence}\n")


def test_a_closed_pipe_has_an_exit_code_and_no_message(capsys):
    def command():
        raise ReaderClosed

    with pytest.raises(SystemExit) as ended:
        run(command)
    assert (ended.value.code, capsys.readouterr().err) == (PIPE_CLOSED, "")


def test_a_bug_in_the_program_is_not_hidden():
    with pytest.raises(ZeroDivisionError):
        run(lambda: 1 / 0)


@pytest.mark.parametrize(
    "text",
    [
        "libgomp.so.1: cannot allocate memory in static TLS block",
        "x.so: failed to map segment from shared object: Operation not permitted",
        "cannot import name 'x' from 'y'",
    ],
)
def test_a_library_that_cannot_be_loaded_for_another_reason_is_not_said_to_need_memory(text):
    def command():
        raise ImportError(text)

    with pytest.raises(ImportError, match=text):
        run(command)


def test_a_notice_is_one_line_on_standard_error(capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        run(lambda: warnings.warn("one process does all of the work.", Notice, stacklevel=1))
    assert capsys.readouterr().err == "program: one process does all of the work.\n"


def test_say_prints_at_once_and_escapes_control_characters(capsys):
    say("first\nsecond\x1b[0m")
    assert capsys.readouterr().out == "first\nsecond\\x1b[0m\n"


@pytest.mark.parametrize("program", ["octprep", "octtrain"])
def test_typer_passes_on_the_exceptions_that_run_program_handles(program):
    """Typer has its own exit codes for some exceptions; run_program must get them first."""
    code = (
        "import sys; from octprep.terminal.streams import ReaderClosed\n"
        f"from {program} import cli\n"
        "@cli.app.command('closed')\ndef closed() -> None: raise ReaderClosed('closed')\n"
        f"sys.argv = [{program!r}, 'closed']; cli.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (PIPE_CLOSED, "", "")
