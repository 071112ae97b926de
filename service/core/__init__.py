"""Decisions, without I/O: time, jitter and secrets are arguments."""
