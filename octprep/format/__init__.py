"""What both programs agree on: settings, manifest, images.csv, file names, errors, and how files are read and written.

Only the standard library is imported.
"""
