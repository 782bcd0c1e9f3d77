"""The verdict of an inspection: the headline and each check, in sentences for the terminal and the page."""

from __future__ import annotations

from dataclasses import dataclass

from octprep.inspection.inspection import Inspection
from octprep.wording import listed, number

YES, NO, UNKNOWN = "yes", "no", "not known"
_QUICK = "A quick inspection does not compare pixels."


@dataclass(frozen=True)
class Check:
    """One check and its result."""

    name: str  # what should be so, such as: Patients disjoint
    state: str  # whether it is: YES, NO or UNKNOWN
    sentence: str


def headline(inspection: Inspection) -> str:
    """The verdict in one line."""
    findings = inspection.findings
    leaks = [
        number(count, noun)
        for count, noun in (
            (len(findings.patient_leaks), "patient"),
            (len(findings.content_leaks), "file content"),
            (len(findings.near_duplicate_leaks), "near-identical pair"),
        )
        if count
    ]
    if leaks:
        verb = "is" if len(leaks) == 1 and leaks[0].startswith("1 ") else "are"
        text = f"Leaky as it is: {listed(leaks)} {verb} in more than one folder"
    elif not inspection.has_splits:
        text = "Not split into folders yet, so nothing leaks"
    else:
        text = f"No leak between {listed(list(inspection.images))} was found"
    conflicts = [
        number(count, noun)
        for count, noun in (
            (len(findings.label_conflicts), "content"),
            (len(findings.near_duplicate_conflicts), "near-identical pair"),
        )
        if count
    ]
    return f"{text}; {listed(conflicts)} under more than one class" if conflicts else text


def is_clean(inspection: Inspection) -> bool:
    """Whether neither a leak nor a label conflict was found."""
    findings = inspection.findings
    return not (
        findings.patient_leaks
        or findings.content_leaks
        or findings.near_duplicate_leaks
        or findings.label_conflicts
        or findings.near_duplicate_conflicts
    )


def checks(inspection: Inspection) -> list[Check]:
    """Every check, leaks first."""
    return [
        *_leak_checks(inspection),
        _merged_ids_check(inspection),
        _label_check(inspection),
        _shortcut_check(inspection),
    ]


def recommendation(inspection: Inspection) -> str:
    """What to do about the findings, in one or two sentences."""
    findings = inspection.findings
    if findings.patient_leaks or findings.content_leaks or findings.near_duplicate_leaks:
        text = (
            "Results on these folders will look better than they are. octprep build keeps the test folder where there "
            "is one, excludes its patients from training, and puts every patient group in one split."
        )
    elif inspection.has_splits:
        text = "The folders can be used as they are, as far as was checked."
    else:
        text = "octprep build splits by patient, not by scan, and puts every patient group in one split."
    if findings.label_conflicts:
        text += " It excludes contents under several classes, unless --label-conflicts says otherwise."
    return text


def _leak_checks(inspection: Inspection) -> list[Check]:
    findings = inspection.findings
    names = ("Patients disjoint", "Contents disjoint", "Near-duplicates disjoint")
    if not inspection.has_splits:
        return [Check(name, UNKNOWN, "There are no split folders to compare.") for name in names]
    in_several = "in more than one folder."
    by_what = "bytes or stored pixels" if inspection.pixels else "bytes"
    return [
        Check(names[0], NO, f"{number(len(findings.patient_leaks), 'patient id')} {in_several}")
        if findings.patient_leaks
        else Check(names[0], YES, f"No patient id is {in_several}"),
        Check(names[1], NO, f"{number(len(findings.content_leaks), 'content')}, by {by_what}, {in_several}")
        if findings.content_leaks
        else Check(names[1], YES, f"No content, by {by_what}, is {in_several}"),
        _near_duplicate_check(inspection, names[2], in_several),
    ]


def _near_duplicate_check(inspection: Inspection, name: str, in_several: str) -> Check:
    leaks = inspection.findings.near_duplicate_leaks
    if inspection.pixels is None:
        return Check(name, UNKNOWN, _QUICK)
    if leaks:
        return Check(name, NO, f"{number(len(leaks), 'pair')} under different patient ids, {in_several}")
    return Check(name, YES, f"No such pair under different patient ids is {in_several}")


def _merged_ids_check(inspection: Inspection) -> Check:
    name = "One id per patient"
    merged = inspection.findings.merged_ids
    what = "content or a near-identical scan" if inspection.pixels else "content"
    if not merged:
        return Check(name, YES, f"No two patient ids share a {what}.")
    ids = sum(len(group.patients) for group in merged)
    return Check(name, NO, f"{ids:,} patient ids share a {what} and count as {number(len(merged), 'patient')}.")


def _label_check(inspection: Inspection) -> Check:
    name, findings = "Labels agree", inspection.findings
    conflicts = []
    if findings.label_conflicts:
        conflicts.append(f"{number(len(findings.label_conflicts), 'content')} under more than one class")
    if findings.near_duplicate_conflicts:
        conflicts.append(f"{number(len(findings.near_duplicate_conflicts), 'near-identical pair')} under two classes")
    note = ""
    if findings.patients_in_several_classes:
        ids = number(len(findings.patients_in_several_classes), "patient id")
        note = f"{ids} with scans of several classes, which need not be wrong"
    if conflicts:
        return Check(name, NO, f"{listed(conflicts)}.{f' Also, {note}.' if note else ''}")
    return Check(name, YES, f"No content is under two classes{f'; {note}' if note else ''}.")


def _shortcut_check(inspection: Inspection) -> Check:
    name = "No shortcut features"
    if inspection.pixels is None:
        return Check(name, UNKNOWN, _QUICK)
    test = inspection.pixels.shortcuts
    if test.not_run:
        return Check(name, UNKNOWN, f"The shortcut test did not run: {test.not_run}.")
    shortcuts = [accuracy.feature for accuracy in test.accuracies if accuracy.is_shortcut(test.chance)]
    if shortcuts:
        return Check(name, NO, f"Better than chance without the retina: {listed(shortcuts)}.")
    return Check(name, YES, "No number that was tried predicts the class clearly better than chance.")
