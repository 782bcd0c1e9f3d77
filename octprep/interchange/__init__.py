"""The images of a folder of shards in the formats of other libraries: WebDataset, and Parquet for Hugging Face."""

from octprep.interchange.exporting import FORMATS, ExportedSplit, ExportResult, export

__all__ = ["FORMATS", "ExportResult", "ExportedSplit", "export"]
