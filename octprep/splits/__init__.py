"""From scans to train, val and test: patient groups, split strategies, leaks and class balance.

All functions are pure but for `split_file.load`, which reads a file.
"""
