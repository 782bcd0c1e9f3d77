"""Untrusted text, such as file names, made safe to look at; the template escapes it as well."""

from __future__ import annotations

import unicodedata

_HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # control, direction and joining marks, line separators


def visible(text: str) -> str:
    """The text with every character that cannot be seen, or turns the writing around, as its Python escape."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        character.encode("unicode_escape").decode() if unicodedata.category(character) in _HIDDEN else character
        for character in text
    )
