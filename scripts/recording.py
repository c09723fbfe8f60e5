"""Record a first delivery on a terminal and draw it as docs/delivery.svg for the README.

It runs real commands on a terminal of their own, with a temporary home folder.
"""

from __future__ import annotations

import io
import os
import pty
import re
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.text import Text

COLUMNS = 96
COMMANDS = (
    "dockercomms send report.pdf --to bob@example.com",
    "dockercomms inbox --me bob@example.com",
    "dockercomms recv --me bob@example.com",
    "dockercomms receipts",
)
FOLDER = "/home/alice"
"""What the temporary home is called in the picture."""
REPORT_BYTES = 3 * 2**20

FORMAT = """\
<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{ font-family: Menlo, Consolas, "DejaVu Sans Mono", monospace;
  font-size: {char_height}px; line-height: {line_height}px; white-space: pre; }}
.{unique_id}-title {{ font-family: sans-serif; font-size: 16px; font-weight: bold; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" />
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""
"""As rich draws a terminal, without the fonts that it would load from elsewhere."""

_CONTROL = re.compile(r"\x1b\[\?25[hl]|\x1b\[2K|\x1b\[1A|\r|\n|[^\x1b\r\n]+|\x1b\[[0-9;]*m")


def run_on_terminal(command: str, environ: Mapping[str, str], folder: Path) -> str:
    """Run `command` on a terminal of its own and return its output."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(folder)
        words = command.split()
        os.execvpe(words[0], words, dict(environ))  # noqa: S606 - a command of this file
    sent = io.BytesIO()
    while True:
        try:
            piece = os.read(terminal, 65536)
        except OSError:  # Linux reports the end of the other side in this way
            break
        if not piece:
            break
        sent.write(piece)
    os.close(terminal)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code:
        raise SystemExit(f"{command}: exit code {code}\n{sent.getvalue().decode()}")
    return sent.getvalue().decode()


def left_on_screen(sent: str) -> str:
    """Return the final text on the screen, without progress that was overwritten."""
    lines, row, column_is_home = [""], 0, False
    for part in _CONTROL.findall(sent):
        if part == "\n":
            row += 1
            lines.extend([""] * (row + 1 - len(lines)))
        elif part == "\r":
            column_is_home = True
            continue
        elif part == "\x1b[2K":
            lines[row] = ""
        elif part == "\x1b[1A":
            row = max(0, row - 1)
        elif not part.startswith("\x1b[?"):
            lines[row] = part if column_is_home and part[0] != "\x1b" else lines[row] + part
        column_is_home = False
    return "\n".join(lines).rstrip("\n")


def main() -> None:
    """Record the delivery and write the picture."""
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/delivery.svg")
    console = Console(record=True, width=COLUMNS, file=io.StringIO())
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        (home / "report.pdf").write_bytes(os.urandom(REPORT_BYTES))
        environ = {
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "HOME": name,
            "USER": "alice@example.com",
            "LOGNAME": "alice@example.com",
            "TERM": "xterm-256color",
            "COLUMNS": str(COLUMNS),
            "LANG": "C.UTF-8",
        }
        for command in COMMANDS:
            shown = left_on_screen(run_on_terminal(command, environ, home))
            console.print(Text.assemble(("$ ", "bold green"), (command, "bold")))
            console.print(Text.from_ansi(shown.replace(name, FOLDER)))
            console.print()
    target.write_text(console.export_svg(title="a first delivery", code_format=FORMAT))


if __name__ == "__main__":
    main()
