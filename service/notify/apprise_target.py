"""Delivers a message by Apprise, which knows Slack, Teams, e-mail, PagerDuty and more. An extra: imported only if used."""

import asyncio
import logging
from importlib import import_module
from typing import Any, Final

from service.config import PREFIX, Settings
from service.errors import FieldError
from service.notify.result import DELIVERED, DeliveryResult
from service.storage.messages import Message

_ABSENT: Final = "needs Apprise; install it with pip install 'rollcall-fleet[apprise]'"


def errors(settings: Settings) -> list[FieldError]:
    """What keeps the targets that need Apprise from working."""
    urls = {one.name: one.to.get_secret_value() for one in settings.notify if one.sort == "apprise"}
    found = ((name, _problem(url)) for name, url in urls.items())
    return [FieldError(f"{PREFIX}NOTIFY", f"{name}: {text}") for name, text in found if text]


def _problem(url: str) -> str | None:
    try:
        library = _library()
    except ImportError:
        return _ABSENT
    return None if library.Apprise().add(url) else "to is no URL that Apprise knows; see its list of services"


async def send(url: str, message: Message, settings: Settings) -> DeliveryResult:
    """Send the text of a message, in a thread: Apprise waits for its answers.

    A thread cannot be stopped, so one that hangs ends when Apprise's own time limit does.
    """
    try:
        async with asyncio.timeout(settings.notify_timeout_seconds):
            done = await asyncio.to_thread(_notify, url, message)
    except TimeoutError:
        return DeliveryResult(error="no answer in time", away=True)
    except ImportError:
        return DeliveryResult(error=_ABSENT)
    return DELIVERED if done else DeliveryResult(error="Apprise could not deliver it", away=True)


def _notify(url: str, message: Message) -> bool:
    library = _library()
    sender = library.Apprise()
    body = f"{message.text}\n{message.kind} · {message.created_at:%Y-%m-%d %H:%M:%SZ} · number {message.seq}"
    return bool(sender.add(url)) and bool(sender.notify(title="Rollcall", body=body, body_format="text"))


def _library() -> Any:
    # What it logs may quote URLs with secrets.
    logging.getLogger("apprise").disabled = True
    return import_module("apprise")
