"""What a source folder holds: every file becomes a ScanFile or an Exclusion, and every ScanFile that is read a Scan.

`listing` lists the folder (`walk` finds the files), `files` holds the types and the grammar of paths, `reading` decodes
one scan, `published` recognises published data sets by their counts. Nothing under the source is ever written.
"""
