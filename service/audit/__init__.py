"""Exports the record."""
