"""The shares of the classes where a model is to be used, for predictive values there.

How often a verdict is right depends on how frequent the classes are: among many healthy eyes most alarms are false.
Sensitivity and specificity do not depend on it. So the predictive values for another mix of classes follow from the
shares and from how often images of each class are given each verdict (Bayes' theorem). The verdicts are not changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from octprep.format.errors import SettingError
from octprep.wording import listed


def parse_prevalence(text: str) -> dict[str, float]:
    """Class -> share, of such as `CNV=0.05,DME=0.05,NORMAL=0.8`. Raises SettingError for anything else."""
    found: dict[str, float] = {}
    for part in text.split(","):
        name, _, share = (piece.strip() for piece in part.partition("="))
        try:
            value = float(share)
        except ValueError:
            value = -1.0
        if not name or not 0 <= value <= 1 or name in found:
            raise SettingError(
                f"prevalence must be such as CNV=0.05,DME=0.05,NORMAL=0.8, each class once with its share from 0 to 1; "
                f"got {text!r}"
            )
        found[name] = value
    return found


def complete_prevalence(given: Mapping[str, float], class_names: Sequence[str]) -> dict[str, float]:
    """The share of every class, in the order of the classes; one that is omitted has the rest of 1.

    Raises SettingError for an unknown class, two that are omitted, or a sum other than 1.
    """
    missing = [name for name in class_names if name not in given]
    if unknown := sorted(set(given) - set(class_names)):
        raise SettingError(f"prevalence names {listed(unknown)}, but the classes are {listed(class_names)}")
    rest = 1 - sum(given.values())
    if len(missing) > 1 or rest < -1e-6 or (not missing and abs(rest) > 1e-6):
        raise SettingError(
            f"prevalence must give the shares of all of {listed(class_names)}, 1 in all, or of all but one; "
            f"got {', '.join(f'{name}={share:g}' for name, share in given.items())}"
        )
    shares = {name: given.get(name, max(rest, 0.0)) for name in class_names}
    return {name: share / sum(shares.values()) for name, share in shares.items()}
