"""Characters that are invisible are written as escapes."""

import pytest

from octprep.html.text import visible


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("train/CNV/CNV-1-1.jpeg", "train/CNV/CNV-1-1.jpeg"),
        ("gr\u00fc\u00df \u7f51", "gr\u00fc\u00df \u7f51"),
        ("a\nb\tc\0", "a\\nb\\tc\\x00"),
        ("\u202egpj.exe\u200b", "\\u202egpj.exe\\u200b"),
        ("\u3164\u115f\u2800", "\\u3164\\u115f\\u2800"),
        ("1\ufe0f \xa02\u3000", "1\\ufe0f \\xa02\\u3000"),
        ("\U000e0100", "\\U000e0100"),
    ],
)
def test_hidden_characters_become_escapes(text, expected):
    assert visible(text) == expected
