"""One B-scan from JPEG bytes to the stored pixels, and the way back to the source's coordinates.

`decode` reads, `prepare` cleans the border, crops to the retina, denoises and resizes; both need nothing but their
arguments and give equal pixels for equal input. A change that gives other pixels must raise
`octprep.schema.IMAGING_REVISION`. Images are gray, (rows, columns) uint8 in 0..255, row 0 on the vitreous side.
"""

from octprep.imaging.border import Border, clean, find_border
from octprep.imaging.jpeg import decode
from octprep.imaging.preparation import Prepared, denoise, prepare
from octprep.imaging.retina import Retina, find_retina

__all__ = ["Border", "Prepared", "Retina", "clean", "decode", "denoise", "find_border", "find_retina", "prepare"]
