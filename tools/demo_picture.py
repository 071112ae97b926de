"""Draw docs/images/demo.svg: what `rollcall demo` prints, as a terminal shows it. Takes as long as the demo does."""

import re
import subprocess
import sys
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "docs" / "images" / "demo.svg"
COLUMNS = 118

#: What is shown in green or bold; everything else is plain.
_ENDS_WELL = "the record equals the truth"
_TITLE = re.compile(r"^(\$ .*|summary)$")
#: Pages that show pictures load no fonts for them: the browser's own is as good.
_FONTS = re.compile(r"@font-face \{\{.*?\}\}\s*", re.DOTALL)


def main() -> int:
    """Run the demo, and draw it if the record equals the truth in the end."""
    demo = subprocess.run(
        [sys.executable, "-m", "service.cli.main", "demo"],
        cwd=ROOT,
        check=False,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    if demo.returncode:
        print(demo.stdout)
        return demo.returncode
    PICTURE.parent.mkdir(exist_ok=True)
    PICTURE.write_text(picture(shown(demo.stdout.splitlines())), encoding="utf-8")
    print(f"drawn: {PICTURE.relative_to(ROOT)}")
    return 0


def shown(lines: list[str]) -> list[str]:
    """The demo's lines without the story of one VM, which is too wide for a picture."""
    begin = next(at for at, line in enumerate(lines) if line.startswith("the story of "))
    return ["$ make demo", *lines[:begin], *lines[-1:]]


def picture(lines: list[str]) -> str:
    """The lines as an SVG that needs nothing but itself."""
    with (Path("/dev/null")).open("w", encoding="utf-8") as nowhere:
        console = Console(record=True, width=COLUMNS, file=nowhere, color_system="truecolor", highlight=False)
        for line in lines:
            style = "bold green" if line == _ENDS_WELL else "bold" if _TITLE.match(line) else ""
            console.print(Text(line, style=style), overflow="ellipsis", no_wrap=True)
        return console.export_svg(title="rollcall demo", theme=MONOKAI, code_format=_FONTS.sub("", CONSOLE_SVG_FORMAT))


if __name__ == "__main__":
    sys.exit(main())
