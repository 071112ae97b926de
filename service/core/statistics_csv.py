"""Statistics as CSV (RFC 4180), one number a line, the same from the API, the dashboard and the command line."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from service.core import csv_lines

#: The fields of a line, in their order.
COLUMNS: Final = ("statistic", "by", "key", "measure", "value")
_MOMENTS: Final = ("creating", "active", "ready")
_OF_A_FLEET: Final = ("asked", "seconds", "available_seconds", "starting_seconds", "share")


def to_csv(report: Mapping[str, Any], fleets: Iterable[Mapping[str, Any]] = ()) -> str:
    """A report of the API, and the availability of single fleets if there is any. What is not known is left out."""
    lines = ((*one[:-1], str(one[-1])) for one in _numbers(report, fleets) if one[-1] is not None)
    return "".join(map(csv_lines.line, (COLUMNS, *lines)))


def _numbers(report: Mapping[str, Any], fleets: Iterable[Mapping[str, Any]]) -> Iterator[tuple[Any, ...]]:
    for row in report["times"]:
        yield "times", row["by"], row["key"], "vms", row["vms"]
        for moment in _MOMENTS:
            yield from ((f"time to {moment}", row["by"], row["key"], *one) for one in row[moment].items())
    for row in report["failures"]:
        yield "failures", f"{row['kind']} {row['what']}", row["reason"], "count", row["count"]
    for name in ("callbacks", "availability"):
        yield from ((name, "all", "all", *one) for one in report[name].items())
    for row in fleets:
        yield from (("availability", "submission", row["submission_id"], name, row[name]) for name in _OF_A_FLEET)
