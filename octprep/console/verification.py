"""What `octprep verify` prints: each guarantee with its violations, and the certificate."""

from __future__ import annotations

from importlib.metadata import version

from octprep.console.layout import indented, printable, shown_path
from octprep.format.manifest import IMAGES_NAME
from octprep.html.text import visible
from octprep.storage.remote import Location
from octprep.verification import CHECKS, VerificationResult
from octprep.wording import listed, number

_MAX_VIOLATIONS = 100  # of one guarantee


def certificate(result: VerificationResult) -> str:
    """One line that a paper can quote: what was verified, of which dataset. Only for a result without violations."""
    manifest = result.manifest
    counted = [
        f"{split} {number(count.images, 'image')} of {number(count.patients, 'patient')}"
        for split, count in result.counts.items()
    ]
    images = sum(count.images for count in result.counts.values())
    apart = "patients, file contents and stored pixels"
    if manifest.config.near_duplicates and result.not_comparable < images:
        but = f" (but for {result.not_comparable:,} images too small to compare)" if result.not_comparable else ""
        apart = f"patients, file contents and near-identical scans{but}"
    return visible(
        f"octprep {version('octprep')} certifies dataset sha256:{manifest.digest}: {', '.join(counted)}; {apart} "
        f"disjoint across splits, re-derived from {result.records:,} records{_limits(result)}."
    )


def _limits(result: VerificationResult) -> str:
    """What must be known of the patient ids."""
    manifest = result.manifest
    key = f"patient ids are pseudonyms of the key {manifest.pseudonym_key}" if manifest.pseudonym_key else ""
    return "".join(f"; {limit}" for limit in (key, manifest.unknown_patients) if limit)


def verification_summary(folder: Location, result: VerificationResult) -> str:
    """What `octprep verify` prints: each guarantee with its violations, and what was not checked.

    A violated guarantee 5 comes first: what damaged records say cannot be trusted.
    """
    by_check: dict[int, list[str]] = {check: [] for check in CHECKS}
    for violation in result.violations:
        by_check[violation.check].append(f"{violation.where}: {violation.message}")
    lines = []
    for check in sorted(CHECKS, key=lambda check: (check != 5 or not by_check[5], check)):
        violations = by_check[check]
        state = "VIOLATED" if violations else "unknown " if check < 5 and result.unread else "holds   "
        lines.append(f"guarantee {check} {state}: {_guarantee(check, result)}")
        if violations:
            lines.append(indented(violations, _MAX_VIOLATIONS))
    if result.unread:
        lines.append(f"not checked: whatever needs {listed(result.unread)}, which could not be read whole")
        if result.unchecked_rows:
            lines[-1] += f"; {number(result.unchecked_rows, 'row')} of {IMAGES_NAME} point there"
    lines.append(
        "in no record, so only the form was checked: bytes, fill_fraction, crop_confidence, note and flags "
        f"in {IMAGES_NAME}, what it says of excluded files, and settings that leave no trace, such as the seed"
    )
    lines += [f"note: {note}" for note in result.notes]
    if result.violations:
        verdict = f"{number(len(result.violations), 'violation')} in {number(result.records, 'record')}"
    else:
        digest = result.manifest.digest
        verdict = f"{number(result.records, 'record')}, all guarantees hold; dataset digest {digest}{_limits(result)}"
    lines.append(f"{shown_path(folder)}: {verdict}")
    return printable("\n".join(lines))


def _guarantee(check: int, result: VerificationResult) -> str:
    """A guarantee in words, without what was not checked."""
    if check == 1 and not result.manifest.config.near_duplicates:
        return (
            "no patient, no content and no equal stored pixels are in two splits; near-identical scans were not "
            "searched for"
        )
    if check == 1 and result.not_comparable:
        too_small = number(result.not_comparable, "image")
        if result.not_comparable >= sum(count.images for count in result.counts.values()):
            return (
                "no patient, no content and no equal stored pixels are in two splits; near-identical scans could not "
                f"be searched for, as all {too_small} are too small"
            )
        return f"{CHECKS[check]}; {too_small} too small to be compared with others"
    return CHECKS[check]
