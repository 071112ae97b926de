"""Statistics as an SVG file, drawn by pygal. The file loads nothing and runs nothing: it can be opened anywhere."""

from collections.abc import Mapping, Sequence
from typing import Any, Final
from xml.etree import ElementTree as ET

from service.cli.exits import CliError, Exit
from service.cli.stats_views import CHANGES, MEASURES, share

_SVG: Final = "http://www.w3.org/2000/svg"
_MOST: Final = 40  #: bars of a plot
Series = dict[str, list[float | None]]


def draw(plot: str, by: str, report: Mapping[str, Any], fleets: Sequence[Mapping[str, Any]]) -> str:
    """A plot as the text of an SVG file. Raises `CliError` if pygal is not installed."""
    try:
        import pygal  # noqa: PLC0415  an extra
    except ImportError:
        raise CliError(Exit.USAGE, "--svg needs pygal: install rollcall-fleet[plots]") from None
    title, labels, series = _content(plot, by, report, fleets)
    chart = pygal.HorizontalBar(
        js=(),
        title=f"{title}, {report['since'][:10]} to {report['until'][:10]}",
        height=160 + 18 * len(labels) * len(series),
        show_legend=len(series) > 1,
        truncate_label=-1,
        margin_right=40,
    )
    chart.x_labels = labels[::-1]  # from the bottom up
    for name, values in series.items():
        chart.add(name, values[::-1])
    return _without_scripts(chart.render_tree())


def _content(
    plot: str, by: str, report: Mapping[str, Any], fleets: Sequence[Mapping[str, Any]]
) -> tuple[str, list[str], Series]:
    if plot == "failures":
        rows = report["failures"][:_MOST]
        named = [f"{row['kind']} {row['what']}: {row['reason'][:60]}" for row in rows]
        return "Failures", named, {"count": [row["count"] for row in rows]}
    if plot == "callbacks":
        found = report["callbacks"]
        return (
            "Callbacks of changes of state",
            [one.replace("_", " ") for one in CHANGES],
            {"changes": [found[one] for one in CHANGES]},
        )
    if plot == "availability":
        worst = sorted(fleets, key=lambda row: row["share"])[:_MOST]
        named = [f"{row['name']} {share(row['share'])}" for row in worst]
        return "Availability of fleets in percent", named, {"available": [row["share"] * 100 for row in worst]}
    times = [row for row in report["times"] if row["by"] == by][:_MOST]
    series: Series = {one: [row["ready"][one] for row in times] for one in MEASURES}
    return f"Seconds to ready by {by}", [row["key"] for row in times], series


def _without_scripts(tree: Any) -> str:
    # pygal hands its configuration to a script that it would load from another host. Comments have functions as tags.
    for parent in list(tree.iter()):
        for child in list(parent):
            if child.tag in {"script", f"{{{_SVG}}}script"} or callable(child.tag):
                parent.remove(child)
    return ET.tostring(tree, encoding="unicode", xml_declaration=True)
