"""Paths as text that any table, terminal and page can hold. Only the standard library is imported."""

from __future__ import annotations

import re
import shlex
from pathlib import Path, PurePath

from octprep.format.errors import SettingError

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.:-]*://")
_FRAME = re.compile(r"(.+)#([0-9]{1,6})", re.DOTALL)
_COLLAPSED_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/(?=[^/])")  # what pathlib makes of one; not a Windows drive

_copies: dict[PurePath, str] = {}  # folders of this process with copies of what lies at a URL


def is_url(text: str) -> bool:
    """Whether a text is a URL such as `s3://bucket/folder`, and not a path."""
    return _URL.match(text) is not None


def url_of_path(path: PurePath) -> str | None:
    """The URL of which pathlib has made a path: `s3://bucket/folder` of `s3:/bucket/folder`; None for any other."""
    text = path.as_posix()
    return _COLLAPSED_URL.sub(r"\1://", text, count=1) if _COLLAPSED_URL.match(text) else None


def require_path(path: PurePath) -> None:
    """Raise SettingError for what pathlib has made of a URL, where a folder or a file of this machine is to be made."""
    if url := url_of_path(path):
        raise SettingError(f"{url} is a URL; give a path of this machine.")


def note_copy(folder: Path, url: str) -> None:
    """Note that a folder has a copy of what lies at a URL, for messages (`original`)."""
    _copies[folder] = url


def forget_copy(folder: Path) -> None:
    """Forget what `note_copy` noted of a folder, if anything."""
    _copies.pop(folder, None)


def original(path: Path) -> str:
    """What a message names for a file or a folder: of a copy the URL, which its user knows, of any other the path."""
    for folder in (path, *path.parents):
        if url := _copies.get(folder):
            return "/".join((url, *path.relative_to(folder).parts))
    return str(path)


def path_to_text(path: str) -> str:
    """A path as text that UTF-8 and every table, terminal and page can hold, for any bytes a file system allows.

    Control characters and bytes that are not UTF-8 become backslash, x and two hexadecimal digits, and a backslash
    becomes two, so different paths never give equal text; `text_to_path` is the inverse. Other characters stay.
    """
    if path.isprintable() and "\\" not in path:
        return path
    return "".join(map(_escaped, path))


def text_to_path(text: str) -> str:
    """The inverse of `path_to_text`. Raises ValueError for text that it does not give."""
    if "\\" not in text:
        return text
    if re.sub(r"\\\\|\\x[0-9a-f]{2}", "", text).count("\\"):
        raise ValueError(f"a backslash in {text!r} is followed by neither another one nor x and two digits")
    raw = re.sub(
        rb"\\(\\|x[0-9a-f]{2})",
        lambda match: b"\\" if match[1] == b"\\" else bytes([int(match[1][1:], 16)]),
        text.encode(),
    )
    return raw.decode(errors="surrogateescape")


def frame_path(path: str, frame: int, frames: int) -> str:
    """The path of a frame of a file that holds several B-scans: `scan.dcm#07`, counted from 1, of so many frames."""
    return f"{path}#{frame:0{len(str(frames))}d}"


def split_frame_path(path: str) -> tuple[str, int]:
    """The path of a file and the number of its frame that `frame_path` made one of; 0 for any other path."""
    match = _FRAME.fullmatch(path)
    return (match[1], int(match[2])) if match else (path, 0)


def quoted(path: object) -> str:
    """A path, or a URL, for a command to copy: as text, and quoted for the shell."""
    return shlex.quote(path_to_text(str(path)))


def escape(character: str) -> str:
    """The escape of a character that is not to be shown: of a byte that is not UTF-8 as `path_to_text` has it."""
    code = ord(character)
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else character.encode("unicode_escape").decode()


def _escaped(character: str) -> str:
    if character == "\\":
        return "\\\\"
    if character.isprintable() or character == " ":
        return character
    code = ord(character)
    if 0xD800 <= code <= 0xDFFF or code < 0xA0 or character in "\u2028\u2029":
        errors = "surrogateescape" if 0xDC80 <= code <= 0xDCFF else "surrogatepass"
        return "".join(f"\\x{byte:02x}" for byte in character.encode(errors=errors))
    return character
