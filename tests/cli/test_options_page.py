"""docs/options.md is what the settings say."""

import importlib.util
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def test_the_options_page_is_up_to_date():
    spec = importlib.util.spec_from_file_location("options_page", DOCS / "options.py")
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    assert (DOCS / "options.md").read_text() == program.page(), "run `make docs`"
