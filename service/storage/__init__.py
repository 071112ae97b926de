"""The tables, and every statement that locks or writes. No function begins or commits a transaction."""
