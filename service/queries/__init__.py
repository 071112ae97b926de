"""Keeps and proves the record, and answers questions about the past. It never writes what a pass decides."""
