"""Everything that the commands of octprep print: results as plain text, progress bars and warnings."""

from octprep.console.build import build_summary, build_warning, duplicate_lines, leak_line, next_of_octtrain
from octprep.console.export import export_summary
from octprep.console.inspection import build_command, inspection_summary
from octprep.console.layout import quoted, shown_path
from octprep.console.output import progress_bars, say, warn
from octprep.console.verification import certificate, verification_summary

__all__ = [
    "build_command",
    "build_summary",
    "build_warning",
    "certificate",
    "duplicate_lines",
    "export_summary",
    "inspection_summary",
    "leak_line",
    "next_of_octtrain",
    "progress_bars",
    "quoted",
    "say",
    "shown_path",
    "verification_summary",
    "warn",
]
