"""Numbers, plurals and lists as English text. Only the standard library is imported."""

from __future__ import annotations

from collections.abc import Sequence


def number(count: int, noun: str, plural: str | None = None) -> str:
    """Such as `1 file`, `1,200 files`; `plural` where it is not the noun with an s."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def listed(items: Sequence[str], limit: int = 12, conjunction: str = "and") -> str:
    """Such as `a, b and c`; of more than `limit` items the first ones, and how many more there are."""
    if len(items) > limit:
        return f"{', '.join(items[:limit])} {conjunction} {len(items) - limit:,} more"
    return f" {conjunction} ".join(filter(None, (", ".join(items[:-1]), *items[-1:])))


def first_lines(lines: Sequence[str], limit: int) -> list[str]:
    """All lines, or the first `limit` of them and a last one such as `and 5 more`."""
    more = len(lines) - limit
    return [*lines[:limit], f"and {more:,} more"] if more > 0 else list(lines)


def cut(text: str, limit: int) -> str:
    """The text, or its first characters and an ellipsis where it is longer than `limit`."""
    return text if len(text) <= limit else text[: limit - 3] + "..."
