"""Retinal OCT B-scans in, leak-free class-balanced TFRecord shards out."""
