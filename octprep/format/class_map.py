"""Classes made of others, as a text such as `AMD=CNV+DRUSEN,NORMAL`. Only the standard library is imported."""

from __future__ import annotations

from octprep.format.errors import SettingError
from octprep.wording import listed


def parse_class_map(text: str, *, bare: bool = False) -> dict[str, tuple[str, ...]]:
    """Class -> its members, of such as `AMD=CNV+DRUSEN,NO=NORMAL`.

    bare: allow a name alone, which is its own member. Raises SettingError for anything else, and for a name or a member
    that is named twice.
    """
    found: dict[str, tuple[str, ...]] = {}
    for part in text.split(","):
        name, equals, members = (piece.strip() for piece in part.partition("="))
        classes = tuple(member.strip() for member in members.split("+")) if equals or not bare else (name,)
        if not name or not all(classes) or name in found:
            raise SettingError(f"classes must be such as AMD=CNV+DRUSEN,NO=NORMAL, each name once; got {text!r}")
        found[name] = classes
    named = [member for classes in found.values() for member in classes]
    if twice := sorted({member for member in named if named.count(member) > 1}):
        raise SettingError(f"classes names {listed(twice)} more than once; a class belongs to one shared class")
    return found
