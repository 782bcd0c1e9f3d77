"""Retinal OCT B-scans to class-balanced TFRecord shards in which no patient is in two splits.

The Python interface; each name is imported when it is first used:

    import octprep
    result = octprep.build("OCT2017", "shards", octprep.BuildConfig(seed=1))
    octprep.verify("shards").violations            # () if all guarantees hold
    for record in octprep.read_records("shards", "val"):
        record.pixels, record.label                # (height, width) uint8, index into the manifest's class names
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from octprep.format.config import BuildConfig, Preprocessing
    from octprep.format.manifest import Manifest
    from octprep.inspection import inspect
    from octprep.interchange import export
    from octprep.pipeline import build
    from octprep.shards.records import read_records
    from octprep.verification import verify

    __version__: str

__all__ = [
    "BuildConfig",
    "Manifest",
    "Preprocessing",
    "__version__",
    "build",
    "export",
    "inspect",
    "read_records",
    "verify",
]

_MODULES = {
    "BuildConfig": "octprep.format.config",
    "Manifest": "octprep.format.manifest",
    "Preprocessing": "octprep.format.config",
    "build": "octprep.pipeline",
    "export": "octprep.interchange",
    "inspect": "octprep.inspection",
    "read_records": "octprep.shards.records",
    "verify": "octprep.verification",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("octprep")
    if name not in _MODULES:
        raise AttributeError(f"module 'octprep' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
