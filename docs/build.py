"""Write docs/commands.md from the commands' own help, so that the page cannot lag behind."""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path

from chiasm.cli import VERBS, main

PAGE = Path(__file__).parent / "commands.md"


def commands_page() -> str:
    """The page, as Markdown."""
    os.environ["COLUMNS"] = "110"  # the width to which help is wrapped
    parts = ["# Commands\n\nWritten by `make docs` from `chiasm COMMAND --help`.\n"]
    for verb, (_, _, summary) in VERBS.items():
        shown = io.StringIO()
        with contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
            main([*verb, "--help"])
        title = f"## chiasm {' '.join(verb)}\n\n{summary[0].upper()}{summary[1:]}."
        parts.append(f"{title}\n\n```\n{shown.getvalue().strip()}\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(commands_page(), encoding="utf-8")
    print(PAGE)
