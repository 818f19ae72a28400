"""Mend files that end in no newline or in several, and lines that end in blanks; say which, and end with 1.

    python tests/support/whitespace.py FILE…

Markdown may end a line in two blanks, which is a line break there.
"""

from __future__ import annotations

import sys
from pathlib import Path


def mended(text: str, *, markdown: bool = False) -> str:
    """A file as it should be; an empty one stays empty."""
    lines = [line if markdown and line.endswith("  ") and line.strip() else line.rstrip() for line in text.split("\n")]
    whole = "\n".join(lines).rstrip("\n")
    return f"{whole}\n" if whole else ""


def main(names: list[str]) -> int:
    """Mend the files, and give how the program ends."""
    wrong = False
    for name in names:
        path = Path(name)
        if path.is_symlink():
            continue
        with path.open(encoding="utf-8", newline="") as file:  # the embedded table has line ends of its own
            text = file.read()
        if "\r" not in text and (better := mended(text, markdown=path.suffix == ".md")) != text:
            path.write_text(better, encoding="utf-8")
            sys.stdout.write(f"{name}: mended\n")
            wrong = True
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
