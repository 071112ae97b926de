"""Decides. No I/O, no clock, no randomness: `now`, jitter and secrets arrive as arguments."""
