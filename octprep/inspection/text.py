"""What an audit found, in plain sentences, for the terminal and the page alike."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from octprep.duplicates.exact import DuplicatePair
from octprep.inspection.findings import Copies, Gathered, Leak
from octprep.inspection.inspect import Audit
from octprep.inspection.shortcuts import ALL, MARGIN, Guess, Shortcuts
from octprep.inspection.similarity import THRESHOLD, Similarity
from octprep.splits import balance

YES, NO, UNKNOWN = "yes", "no", "not known"

# What it means for a network, where a feature tells the class.
_MEANING = {
    "source size": "Stored images all have one size, but stretching leaves its trace in the speckle; octprep build "
    "--field 20 cuts wider scans to one field of view.",
    "file bytes": "Stored images have no file size, but compression and noise leave their traces in the pixels.",
    "bytes per pixel": "They say how hard the files were compressed, and how noisy they are, which leaves traces in "
    "the pixels.",
    "mean of the decoded scan": "This is before the preparation, fill at the border included; compare the stored "
    "pixels.",
    "deviation of the decoded scan": "This is before the preparation, fill at the border included; compare the stored "
    "pixels.",
    "mean of the stored pixels": "A network sees these pixels: change the brightness at random while it trains.",
    "deviation of the stored pixels": "A network sees these pixels: change the contrast at random while it trains.",
    "border fraction": "octprep build paints over such fill, and a network that gets the sources as they are sees it.",
}


@dataclass(frozen=True)
class Check:
    """One thing that was looked for, and what came of it."""

    name: str
    state: str  # whether it is as the name says: YES, NO or UNKNOWN
    sentence: str


def headline(audit: Audit) -> str:
    """The verdict in one line."""
    found = audit.findings
    leaks = [
        number(len(found.leaks), "patient"),
        number(len(found.copies), "file content"),
        number(len(found.near), "near-identical pair"),
    ]
    told = [text for text in leaks if not text.startswith("0 ")]
    if told:
        stand = "stand" if len(told) > 1 or not told[0].startswith("1 ") else "stands"
        text = f"Leaky as it is: {listed(told)} {stand} in more than one folder"
    elif not audit.has_folders:
        text = "Not split into folders yet, so nothing leaks"
    else:
        text = f"No leak between {listed(list(audit.images))} was found"
    contradictory = [
        *[number(len(found.conflicts), "content")] * bool(found.conflicts),
        *[number(len(found.near_conflicts), "near-identical pair")] * bool(found.near_conflicts),
    ]
    if contradictory:
        text += f"; {listed(contradictory)} under more than one class"
    return text


def checks(audit: Audit) -> list[Check]:
    """Everything that was looked for, leaks first."""
    return [*_apart(audit), _groups(audit), _labels(audit), _given_away(audit.shortcuts)]


def _apart(audit: Audit) -> list[Check]:
    found = audit.findings
    names = ("Patients apart", "Contents apart", "Near-identical scans apart")
    if not audit.has_folders:
        return [Check(name, UNKNOWN, "There are no split folders to compare.") for name in names]
    many = "in more than one folder."
    return [
        Check(names[0], NO, f"{number(len(found.leaks), 'patient id')} {many}")
        if found.leaks
        else Check(names[0], YES, f"No patient id is {many}"),
        Check(names[1], NO, f"{number(len(found.copies), 'content')}, by bytes or stored pixels, {many}")
        if found.copies
        else Check(names[1], YES, f"No content, by bytes or stored pixels, is {many}"),
        Check(names[2], NO, f"{number(len(found.near), 'pair')} under different patient ids, {many}")
        if found.near
        else Check(names[2], YES, f"No such pair under different patient ids is {many}"),
    ]


def _groups(audit: Audit) -> Check:
    found = audit.findings.groups
    if not found:
        return Check("One person, one id", YES, "No two patient ids share a content or a near-identical scan.")
    ids = sum(len(one.patients) for one in found)
    return Check(
        "One person, one id",
        NO,
        f"{ids:,} patient ids share contents or near-identical scans and count as {number(len(found), 'person')}.",
    )


def _labels(audit: Audit) -> Check:
    found, parts = audit.findings, []
    if found.conflicts:
        parts.append(f"{number(len(found.conflicts), 'content')} under more than one class")
    if found.near_conflicts:
        parts.append(f"{number(len(found.near_conflicts), 'near-identical pair')} under two classes")
    two = number(len(found.two_classes), "patient id")
    note = f"{two} with scans of several classes, which need not be wrong" if found.two_classes else ""
    if parts:
        return Check("Labels agree", NO, f"{listed(parts)}.{f' Besides, {note}.' if note else ''}")
    return Check("Labels agree", YES, f"No content stands under two classes{f'; {note}' if note else ''}.")


def _given_away(test: Shortcuts) -> Check:
    name = "No shortcut seen"
    if test.left_out:
        return Check(name, UNKNOWN, f"The shortcut test was left out: {test.left_out}.")
    telling = [guess.feature for guess in test.guesses if guess.tells(test.chance)]
    if telling:
        return Check(name, NO, f"Better than chance without the retina: {listed(telling)}.")
    return Check(name, YES, "None of the numbers tried tells the class clearly better than chance.")


def version(audit: Audit) -> str:
    """Which published data set this is."""
    if audit.version:
        return f"By its counts this is {audit.version}"
    return "The counts match no published version that is known"


def shared(audit: Audit) -> list[str]:
    """How much of each folder is known from the others."""
    return [
        f"of {number(one.scans, 'scan')} in {one.folder or 'no folder'}, {one.known:,} "
        f"({_percent(one.known / one.scans)}) "
        f"{'is' if one.known == 1 else 'are'} of patients who have scans in another folder too"
        for one in audit.findings.shared
        if one.known
    ]


def scarce(audit: Audit) -> list[str]:
    """In sentences, which folders have too few patients to say much; ids that count as one person's count once."""
    people: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for item in audit.read:
        name = item.scan.folder or ("the source" if not audit.has_folders else "no folder")
        people[name][item.scan.label].add(audit.persons[item.scan.path])
    return balance.describe_few_patients(
        {name: {label: len(ids) for label, ids in found.items()} for name, found in people.items()}
    )


def leak(found: Leak) -> str:
    """Such as `53018: test 1, train 2 (CNV and DRUSEN)`."""
    folders = ", ".join(f"{folder or 'no folder'} {scans:,}" for folder, scans in found.scans.items())
    return f"{found.patient}: {folders} ({listed(found.labels)})"


def copies(found: Copies) -> str:
    """Such as `train/CNV/CNV-1-1.jpeg = test/CNV/CNV-1-1.jpeg: same bytes`."""
    return f"{' = '.join(one.path for one in found.scans)}: {found.reason}"


def pair(join: DuplicatePair) -> str:
    """Such as `a.jpeg = b.jpeg: near-identical, correlation 0.93`."""
    told = f"{join.first} = {join.second}: {join.reason}"
    return told if join.correlation == 1 else f"{told}, correlation {join.correlation:.2f}"


def gathered(found: Gathered) -> str:
    """Such as `12 and 34 (5 scans): a.jpeg = b.jpeg: same bytes`."""
    return f"{listed(found.patients)} ({number(found.scans, 'scan')}): {'; '.join(map(pair, found.joins))}"


def threshold(found: Similarity) -> list[str]:
    """Where the threshold stands, and between what."""
    told = [
        "Two measures are not to be mixed up. The distance of descriptors, which are 256 numbers of a scan's coarse "
        "structure, says cheaply which pairs are worth a look; it joins nobody. The threshold is on the correlation "
        "of fine detail, speckle too, once one scan is laid on the other: from "
        f"{THRESHOLD:.2f} on, scans under different ids count as one person's."
    ]
    if found.different:
        told.append(
            f"{number(len(found.different), 'pair')} of scans of two persons, drawn at random among "
            f"{found.persons:,}, correlate at {max(found.different):.2f} at most."
        )
    if found.same:
        of = f", {len(found.same):,} drawn of {found.same_of:,} pairs," if len(found.same) < found.same_of else ""
        told.append(
            f"Neighbouring scans of one patient{of} correlate at {found.same[len(found.same) // 2]:.2f} in the middle "
            f"and at {max(found.same):.2f} at most."
        )
    if found.joined:
        told.append(f"The least alike pair that was joined correlates at {found.joined[-1].correlation:.2f}.")
    else:
        told.append("No pair was joined for its pixels.")
    if found.apart:
        top = found.apart[0]
        told.append(f"The most alike pair of two persons that was not joined correlates at {top.correlation:.2f}.")
    else:
        told.append("No other pair came near enough to be compared so.")
    return told


def drawn(found: Similarity) -> str:
    """How many pairs of neighbours, and of two persons, were compared on pixels, of how many."""
    return (
        f"Drawn were {len(found.same):,} of {number(found.same_of, 'pair')} of neighbours, and "
        f"{number(len(found.different), 'pair')} between {number(found.persons, 'person')}, no person in more than two."
    )


def told_by(guess: Guess, chance: float) -> str:
    """What one feature tells, in one sentence."""
    them = "them" if guess.feature in ("file bytes", "bytes per pixel", ALL) else "it"
    alone = "All these numbers together tell" if guess.feature == ALL else f"{guess.feature.capitalize()} alone "
    if guess.feature != ALL:
        alone += "tell" if them == "them" else "tells"
    return (
        f"{alone} the class in {_percent(guess.right)} of the cases where {_percent(chance)} would be chance "
        f"(95 % interval {100 * guess.low:.0f} to {100 * guess.high:.0f} %): a network may learn {them} instead of the "
        "retina."
    )


def shortcuts(test: Shortcuts) -> list[str]:
    """What the shortcut test means, a sentence or two for each finding, and one to close."""
    if test.left_out:
        return [f"The shortcut test was left out: {test.left_out}."]
    telling = [guess for guess in test.guesses if guess.tells(test.chance)]
    sentences = [
        " ".join(filter(None, (told_by(guess, test.chance), _MEANING.get(guess.feature, "")))) for guess in telling
    ]
    if telling:
        sentences.append(
            "Part of this may be the disease itself, which changes brightness and texture; the rest is how the scans "
            "were taken and saved, and will not hold elsewhere. The test cannot tell the two apart, so judge a network "
            "on scans of another device or hospital before trusting it."
        )
    else:
        highest = max(guess.high for guess in test.guesses)
        sentences.append(
            f"None of these numbers is, with certainty, {100 * MARGIN:.0f} points better than chance. That does not "
            f"rule them out, as intervals reach up to {_percent(highest)}, and other shortcuts were not looked for."
        )
    return sentences


def closing(audit: Audit) -> str:
    """What to do about it, in one or two sentences."""
    found = audit.findings
    if found.leaks or found.copies or found.near:
        text = (
            "Results on these folders will look better than they are. octprep build keeps the test folder where there "
            "is one, leaves its patients out of training, and puts every group on one side."
        )
    elif audit.has_folders:
        text = "The folders can be used as they are, as far as was looked."
    else:
        text = "octprep build deals patients, not scans, and puts every group on one side."
    if found.conflicts:
        text += " Contents under several classes are left out by it, unless --conflicts says otherwise."
    return text


def number(count: int, noun: str) -> str:
    """Such as `1 pair` and `1,200 pairs`."""
    return f"{count:,} {noun}{'s' * (count != 1)}"


def listed(names: Sequence[str], most: int = 12) -> str:
    """a, b and c; at most so many, then how many more."""
    shown = list(names[:most])
    if len(names) > most:
        return f"{', '.join(shown)} and {len(names) - most:,} more"
    return " and ".join(filter(None, (", ".join(shown[:-1]), *shown[-1:])))


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.005 or not share else "under 1 %"
