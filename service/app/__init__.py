"""Composes processes: the daemon, its receiver processes, and the checks before a start."""
