"""How near the splits that were dealt came to the wanted shares of every class, as images.csv tells."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable

from octprep.images import Row
from octprep.plan import SURPLUS
from octprep.schema import BuildConfig
from octprep.split import capped, furthest, wanted_shares


def told(rows: Iterable[Row], config: BuildConfig) -> list[str]:
    """A clause for everything that was dealt: the class whose share in a split is furthest from the wanted one.

    [] for splits as given. Scans count as they did when they were dealt: those that only balancing left out too, and
    with --max-per-patient a patient for no more than that.
    """
    heard: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)  # split, person -> scans by class
    test_given = False
    for row in rows:
        split = "train" if row["left_out"] == SURPLUS else row["split"]
        if split:
            heard[split, row["group"]][row["class"]] += 1
        test_given |= split == "test" and row["folder"] == "test"
    held: dict[str, Counter[str]] = defaultdict(Counter)
    for (split, _), counts in heard.items():
        held[split] += Counter(capped(counts, config.max_per_patient))
    held["rest"] = sum((counts for split, counts in held.items() if split.startswith("fold")), Counter())
    clauses = []
    for wanted in wanted_shares(config, test_given=test_given):
        if not any(held[name] for name in wanted):
            continue  # somebody edited the table
        worst = furthest(held, wanted)
        of = "the scans" if "test" in wanted else "what the test set leaves"
        points = round(100 * (worst.share - worst.wanted), 2) + 0.0  # no -0.00
        clauses.append(
            f"of {of}, {worst.split} has {worst.share:.2%} of {worst.label} where {worst.wanted:.2%} were "
            f"wanted ({points:+.2f} percentage points), and no class in "
            f"{', '.join(wanted)} is further off"
        )
    return clauses
