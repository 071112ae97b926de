"""Hears callbacks and makes them durable before answering. It does not parse them and does not judge."""

from service.receiver.app import Receiver

__all__ = ["Receiver"]
