"""The table of all options for the documentation: ``python -m consecutiond.reference [--check] PAGE``."""

import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from consecutiond.options import Option, all_options

#: what stands around the table in a page
_TABLE: Final = re.compile(r"(<!-- table: options -->\n).*?(<!-- end -->)", re.DOTALL)


def option_table() -> Iterator[str]:
    """Yield the lines of the table, in Markdown."""
    yield "| option | type | default | range | environment | meaning |"
    yield "|---|---|---|---|---|---|"
    for option in all_options():
        yield f"| {' | '.join(_cells(option))} |"


def renewed(page: str) -> str:
    """Return a page with the table as the model has it now."""
    table = "\n".join(option_table())
    return _TABLE.sub(lambda found: f"{found[1]}{table}\n{found[2]}", page)


def main(arguments: Sequence[str]) -> int:
    """Write the table into a page, or only say whether it is up to date."""
    check = "--check" in arguments
    names = [each for each in arguments if each != "--check"]
    if len(names) != 1:
        print("usage: python -m consecutiond.reference [--check] PAGE", file=sys.stderr)
        return 2
    page = Path(names[0])
    old = page.read_text(encoding="utf-8")
    if not _TABLE.search(old):
        print(f"{page}: it has no line <!-- table: options --> and, after it, <!-- end -->", file=sys.stderr)
        return 2
    new = renewed(old)
    if check and new != old:
        print(f"{page} is not up to date; run: python -m consecutiond.reference {page}", file=sys.stderr)
        return 1
    if new != old:
        page.write_text(new, encoding="utf-8")
    return 0


def _cells(option: Option) -> tuple[str, ...]:
    kind = " or ".join(f"`{choice}`" for choice in option.choices) or option.type.replace(" | ", " or ")
    default = f"`{option.default}`" if option.default else ""
    meaning = " ".join(option.meaning.split())
    cells = (f"`{option.name}`", kind, default, option.range, f"`{option.variable}`", meaning)
    return tuple(cell.replace("|", "\\|") for cell in cells)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
