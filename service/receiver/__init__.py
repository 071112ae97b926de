"""The callback listener: makes callbacks durable, then answers. It does not parse their bodies."""

from service.receiver.app import Receiver

__all__ = ["Receiver"]
