"""Pseudonyms of patient ids: keyed hashes (HMAC-SHA-256), which only the holder of the key can link to the ids.

The key is a file of at least 32 bytes, whose content is stored nowhere else. The same key gives the same pseudonyms, so
a patient is recognised in all data sets that a site builds with it. A pseudonym has 18 decimal digits (60 bits of the
hash), as ids in names of scans are digits. Two of a million patients share one with a probability of 1 in 2 million.
"""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Self, TypeVar

from octprep.format.errors import SettingError, SourceError
from octprep.format.files import NotReadable, read_bytes
from octprep.format.names import parse_scan_name
from octprep.source.files import Exclusion, ScanFile, SourceListing, reason_kind

MIN_BYTES, MAX_BYTES = 32, 65_536  # of a key
AnyScan = TypeVar("AnyScan", bound=ScanFile)
_ENDING = re.compile(
    r"\.[A-Za-z][A-Za-z0-9]{0,4}(#[0-9]+)?"
)  # of a file, also of a frame; not the end of a DICOM's UID
_DIGITS = 18  # of a pseudonym: the most that a name of a scan may have


@dataclass(frozen=True)
class Pseudonyms:
    """Replaces patient ids, and all paths, which hold them. Without a key everything stays as it is."""

    key: bytes = field(default=b"", repr=False)

    @classmethod
    def load(cls, file: Path) -> Self:
        """The pseudonyms of a key file. Raises SettingError if it cannot be read or is too short or too long."""
        try:
            key, _ = read_bytes(file, MAX_BYTES)
        except (OSError, NotReadable) as error:
            reason = getattr(error, "strerror", None) or error
            raise SettingError(f"--pseudonyms {file} cannot be read: {reason}.") from None
        if len(key) < MIN_BYTES:
            raise SettingError(
                f"--pseudonyms {file} has {len(key)} bytes, and a key needs {MIN_BYTES} random ones or more; make "
                f"one with `head -c {MIN_BYTES} /dev/urandom > FILE`, and keep it."
            )
        return cls(key)

    def __bool__(self) -> bool:
        return bool(self.key)

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that tell keys apart and do not reveal them; "" without a key."""
        return self._hash("key", "")[:16] if self.key else ""

    def patient(self, patient: str) -> str:
        """The pseudonym of a patient id: 18 digits."""
        if not self.key:
            return patient
        return f"{int(self._hash('patient', patient), 16) % 10**_DIGITS:0{_DIGITS}d}"

    def listing(self, listing: SourceListing) -> SourceListing:
        """A listing with pseudonyms in all paths, whose SHA-256 is keyed too.

        A scan named as by Kermany et al. keeps its split and class folder, its number and its ending; of another layout
        only its split, class and ending are kept. The name of any other file may hold anything, so it is replaced
        whole; of its reason, what follows the colon goes. Raises SourceError if two patients get the same pseudonym.
        """
        if not self.key:
            return listing
        ids = {file.patient for file in listing.scan_files}
        if len({self.patient(patient) for patient in ids}) < len(ids):
            raise SourceError("two patient ids have the same pseudonym; use another key.")
        files = [self.scan_file(file, listing.root) for file in listing.scan_files]
        exclusions = [
            Exclusion(f"excluded/{self._hash('path', one.path)[:32]}", reason_kind(one.reason))
            for one in listing.exclusions
        ]
        return SourceListing(
            "",
            tuple(sorted(files)),
            tuple(sorted(exclusions)),
            self._hash("listing", listing.listing_sha256),
            listing.layouts,
        )

    def scan_file(self, file: ScanFile, root: str) -> ScanFile:
        """A scan, or what is listed of one, under the pseudonym of its patient. root: of the listing."""
        if not self.key:
            return file
        return self.renamed(file, self.scan_path(file, root))

    def renamed(self, file: AnyScan, path: str) -> AnyScan:
        """A scan under its new path and the pseudonyms of its patient and volume."""
        volume = file.volume and self._hash("volume", file.volume)[:16]
        return dataclasses.replace(file, path=path, patient=self.patient(file.patient), volume=volume)

    def scan_path(self, file: ScanFile, root: str) -> str:
        """The path of a scan with the pseudonym of its patient, relative to the root."""
        if not self.key:
            return file.path
        path = PurePosixPath(file.path).relative_to(root)
        parsed = parse_scan_name(path.name)
        if parsed is None or parsed.patient != file.patient or file.patient in path.parts[:-1]:
            ending = path.suffix if _ENDING.fullmatch(path.suffix) else ""
            name = f"{self._hash('path', file.path)[:32]}{ending}"
            return "/".join(filter(None, (file.source, file.source_split, file.label.replace("/", "_"), name)))
        label, _, rest = path.name.split("-", 2)
        return str(path.with_name(f"{label}-{self.patient(file.patient)}-{rest}"))

    def unreadable(self, exclusion: Exclusion, new_paths: Mapping[str, str]) -> Exclusion:
        """The exclusion of a listed file that turned out to be no scan. new_paths: `new_paths` of the listing."""
        if not self.key:
            return exclusion
        return Exclusion(new_paths[exclusion.path], reason_kind(exclusion.reason))

    def new_paths(self, listing: SourceListing) -> dict[str, str]:
        """Path in the source -> the path that is stored, of every listed scan."""
        return {file.path: self.scan_path(file, listing.root) for file in listing.scan_files}

    def _hash(self, kind: str, text: str) -> str:
        """64 hexadecimal digits. kind: of the text, so that a patient and a path that are equal get different ones."""
        return hmac.new(self.key, f"octprep {kind}\0{text}".encode(), hashlib.sha256).hexdigest()
