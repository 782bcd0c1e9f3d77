"""Untrusted text, such as file names, made safe to look at; the template escapes it as well."""

from __future__ import annotations

import unicodedata

from octprep.format.paths import escape

_HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp", "Zs"}  # control, direction and joining marks, line separators, spaces
# What other categories hold that leaves no mark on the page: Unicode's Default_Ignorable_Code_Point, first and last of
# each range, then the blanks of Braille and of musical notation.
_BLANK = (
    (0x034F, 0x034F), (0x115F, 0x1160), (0x17B4, 0x17B5), (0x180B, 0x180F), (0x2060, 0x206F), (0x3164, 0x3164),
    (0xFE00, 0xFE0F), (0xFFA0, 0xFFA0), (0xFFF0, 0xFFF8), (0xE0000, 0xE0FFF), (0x2800, 0x2800), (0x1D159, 0x1D159),
)  # fmt: skip


def visible(text: str) -> str:
    """The text with hidden characters as their Python escapes, and bytes that are not UTF-8 as `path_to_text` has them.

    Hidden are the characters that leave no mark, by Unicode, but for the plain space, and those that change the
    direction of the text.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(escape(character) if _hides(character) else character for character in text)


def _hides(character: str) -> bool:
    code = ord(character)
    hidden = unicodedata.category(character) in _HIDDEN and character != " "
    return hidden or any(first <= code <= last for first, last in _BLANK)
