"""`--follow`: print what is recorded, as it is recorded. A connection that breaks is made again where it broke."""

import json
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final, NoReturn

from service.cli.exits import CliError, Exit
from service.cli.output import say, time_of
from service.client.errors import ApiError, ErrorKind
from service.client.sync import Rollcall
from service.core.printable import escape

#: Seconds until a daemon that does not answer is tried again.
_AGAIN: Final = 2.0


def follow(client: Rollcall, tables: str, *, json_: bool, **filters: Any) -> NoReturn:
    """Print rows until Ctrl-C: one line each, or JSON lines. Never one twice, and none is left out."""
    try:
        for kind, row in events(client, tables, **filters):
            print(json.dumps(row) if json_ else escape(_line(kind, row)), flush=True)
    except KeyboardInterrupt:
        pass
    raise CliError(Exit.STOPPED, "no longer following")


def refuse_filters(filters: Mapping[str, object]) -> None:
    """Raise `CliError` for each filter that is set, although a stream does not take it."""
    given = [f"--{name} cannot go with --follow" for name, value in filters.items() if value is not None]
    if given:
        raise CliError(Exit.USAGE, given)


def events(client: Rollcall, tables: str, **filters: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows of the stream, for ever. Raises `ApiError` if the daemon refuses, but not if it is away after a first answer."""
    place: str | None = None
    while True:
        try:
            for id_, kind, data in _messages(client.stream(tables=tables, after=place, **filters)):
                place = id_
                if kind != "begun":
                    yield kind, json.loads(data)
        except ApiError as error:
            if place is None or error.kind not in {ErrorKind.UNREACHABLE, ErrorKind.UNAVAILABLE}:
                raise
            say(f"{error.detail}; trying again")
            time.sleep(_AGAIN)


def _messages(pieces: Iterator[list[bytes]]) -> Iterator[tuple[str, str, str]]:
    """The id, the kind and the data of each server-sent event."""
    found: dict[str, str] = {}
    for line in (one.decode().rstrip("\n") for lines in pieces for one in lines):
        name, _, value = line.partition(": ")
        if line:
            found[name] = value
        elif "data" in found:
            yield found["id"], found["event"], found["data"]
            found = {}


def _line(kind: str, row: Mapping[str, Any]) -> str:
    of = row["submission_id"] if row.get("vm_no") is None else f"{row['submission_id']}.{row['vm_no']}"
    if kind == "transition":
        what = f"{row['from_state']} -> {row['to_state']} ({row['verdict']}, {row['evidence']})"
        return f"{time_of(row['at'])}  {of}  {what}"
    if kind == "event":
        return f"{time_of(row['received_at'])}  {of}/{row['creation_no']}  {row['source']} {row['event_id']}"
    if kind == "call":
        return f"{time_of(row['begun_at'])}  {of}  {row['operation']} {row['call_id']}"
    status = "" if row["status_code"] is None else f" ({row['status_code']})"
    return f"{time_of(row['ended_at'])}  {of}  {row['outcome']}{status} after {row['ms']} ms: {row['call_id']}"
