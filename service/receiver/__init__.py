"""Hears callbacks and makes them durable before answering. It does not parse them and does not judge."""
