"""Composes processes: the daemon, and the checks before a start."""
