"""Disks that fail: a library, loaded before a program, that makes its calls fail for the files with a name."""

import errno
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

_SOURCE = textwrap.dedent("""
    #define _GNU_SOURCE
    #include <dlfcn.h>
    #include <errno.h>
    #include <stdarg.h>
    #include <stdio.h>
    #include <stdlib.h>
    #include <string.h>
    #include <sys/uio.h>
    #include <unistd.h>
    static int bad(const char *call, const char *path) {
        static int done = 0;
        const char *name = getenv("FAIL_NAME"), *failing = getenv("FAIL_CALL");
        if (!name || strcmp(failing, call) || !strstr(path, name) || done >= atoi(getenv("FAIL_TIMES"))) return 0;
        done++;
        errno = atoi(getenv("FAIL_ERRNO"));
        return 1;
    }
    static int bad_read(int file) {
        char link[64], path[4096];
        if (!getenv("FAIL_NAME") || strcmp(getenv("FAIL_CALL"), "read")) return 0;
        snprintf(link, sizeof link, "/proc/self/fd/%d", file);
        ssize_t length = readlink(link, path, sizeof path - 1);
        path[length < 0 ? 0 : length] = 0;
        return bad("read", path);
    }
    #define REAL(type, name) static type; if (!real) real = dlsym(RTLD_NEXT, #name)
    #define OPEN(name) \\
    int name(const char *path, int flags, ...) { \\
        REAL(int (*real)(const char *, int, ...), name); \\
        va_list rest; va_start(rest, flags); int mode = va_arg(rest, int); va_end(rest); \\
        return path && bad("open", path) ? -1 : real(path, flags, mode); \\
    }
    #define PREADV(name) \\
    ssize_t name(int file, const struct iovec *parts, int count, off_t offset, int flags) { \\
        REAL(ssize_t (*real)(int, const struct iovec *, int, off_t, int), name); \\
        return bad_read(file) ? -1 : real(file, parts, count, offset, flags); \\
    }
    OPEN(open) OPEN(open64) PREADV(preadv2) PREADV(preadv64v2)  /* os.preadv of Python */
    ssize_t read(int file, void *buffer, size_t size) {
        REAL(ssize_t (*real)(int, void *, size_t), read);
        return bad_read(file) ? -1 : real(file, buffer, size);
    }
    """)


def require_failing_disks() -> None:
    """Skip the test where no such disk can be made."""
    if sys.platform != "linux" or shutil.which("gcc") is None:
        pytest.skip("a disk that fails is made with gcc and LD_PRELOAD, on Linux")


def compile_library(folder: Path) -> Path:
    """The library, in a folder."""
    (folder / "fail.c").write_text(_SOURCE)
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", "fail.so", "fail.c", "-ldl"], cwd=folder, check=True)
    return folder / "fail.so"


def run_on_failing_disk(library, name, times, *arguments, call="open", error=errno.EIO):
    """Run Python where the first calls of each process, of `open` or `read`, fail for files whose path has a name."""
    failing = {"LD_PRELOAD": library, "FAIL_NAME": name, "FAIL_TIMES": times, "FAIL_CALL": call, "FAIL_ERRNO": error}
    environment = os.environ | {key: str(value) for key, value in failing.items()}
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
