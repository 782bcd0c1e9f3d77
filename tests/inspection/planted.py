"""File names with markup and control characters, and small sources."""

from tests.worlds.archive import write_scan

HOSTILE_FILE = "<img src=x onerror=alert(1)>.jpeg"
HOSTILE_FOLDER = "OCT <b onmouseover=alert(3)>\u202e"  # a folder above the classes, so part of every path


def write_class_folders(root, quality):
    """Two classes without split folders; each saved at its JPEG quality."""
    for label, patients in (("CNV", range(8)), ("NORMAL", range(10, 18))):
        for patient in patients:
            for number in range(3):
                scan = root / label / f"{label}-{patient}-{number}.jpeg"
                write_scan(scan, key=scan.name, quality=quality[label])
    return root
