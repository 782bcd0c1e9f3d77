"""Scans -> train, val and test: patient groups, split strategies, leaks, balance. Pure functions; nothing is read."""
