"""Remembers. The only room with SQL besides `audit`; its functions never begin or commit a transaction."""
