"""What is wrong with a folder of B-scans as it is: everything that `octprep audit` says.

Every scan is read and prepared once (`reading`), then looked at for leaks between the folders and contradictory labels
(`findings`), for how alike scans are (`closeness`) and for numbers that give the class away (`shortcuts`). `words` and
`page` say it. An audit reports; it does not judge, and nothing is written under the source.
"""

from octprep.inspection.inspect import Audit, audit

__all__ = ["Audit", "audit"]
