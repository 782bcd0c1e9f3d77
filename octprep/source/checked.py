"""Listing sources, and whether they have the classes that are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from octprep.format.errors import SourceError
from octprep.source.files import SourceListing
from octprep.source.listing import list_sources
from octprep.source.options import Rules, SourceSpec


def list_with_classes(
    specs: Sequence[SourceSpec], *, rules: Rules, follow_links: bool = False, keep_out: Sequence[Path] = ()
) -> SourceListing:
    """What `list_sources` gives, of sources that have every class that the rules name.

    Raises SettingError for a class of which no source has a file, and as `list_sources` does.
    """
    try:
        listing = list_sources(specs, rules=rules, follow_links=follow_links, keep_out=keep_out)
    except SourceError:
        if len(specs) == 1:  # of several, not all may have been listed
            rules.require_found()
        raise
    rules.require_found()
    return listing
