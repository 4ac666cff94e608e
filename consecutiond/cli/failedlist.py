"""``consecutiond failed list``, ``show`` and ``audit``: what there is, all of one, and what was done."""

import sys
from collections.abc import Sequence

import msgspec

from consecutiond.acker.stores.base import Failed, Group
from consecutiond.cli import exits
from consecutiond.cli.failedchoice import Choice, Filters, choose, group_name, one
from consecutiond.cli.failedvalues import (
    everything_of,
    first_line,
    json_of,
    moment,
    plural,
    pretty,
    preview,
    summary_of,
    value_of,
)
from consecutiond.operator import Operator

#: columns of numbers
_RIGHT = frozenset({"group", "count", "example", "position", "attempts", "how many"})


def list_failed(
    operator: Operator, filters: Filters, *, each: bool, limit: int | None, after: int, as_json: bool
) -> int:
    """Print groups, or single failed items; return the exit code.

    Args:
        operator: the consecutor's.
        filters: which are meant.
        each: list single ones.
        limit: of single ones, how many at the utmost; None means all.
        after: of single ones, only those at positions above.
        as_json: groups as one list, single ones as one object a line.
    """
    choice = choose(operator, filters)
    if each:
        return _list_each(operator, choice, limit, after, as_json=as_json)
    groups = operator.groups(choice.where) if choice.by_store else _grouped(operator, choice)
    if as_json:
        print(pretty([_group_object(number, group) for number, group in enumerate(groups, 1)]))
    elif not groups:
        print(f"{operator.id}: no failed items" + (" of that kind" if filters else ""))
    else:
        heading = ("group", "name", "count", "node", "kind", "error", "newest", "example")
        rows = [
            (
                str(number), group_name(group), f"{group.count:,}", group.node, group.kind, group.shape,
                moment(group.newest), str(group.example),
            )
            for number, group in enumerate(groups, 1)
        ]  # fmt: skip
        print_table(heading, rows)
        show = f"consecutiond failed show {operator.words} {groups[0].example}"
        replay = f"consecutiond failed replay {operator.words} --group {group_name(groups[0])}"
        print(f"\n{plural(sum(group.count for group in groups))}. See one: {show}\nTry them again: {replay}")
    return exits.OK


def _group_object(number: int, group: Group) -> dict[str, object]:
    return {"group": number, "name": group_name(group), **msgspec.structs.asdict(group)}


def _grouped(operator: Operator, choice: Choice) -> list[Group]:
    """Group what only a look at each one can choose; the values of a page at a time are in memory."""
    from consecutiond.acker.stores.base import grouped

    bare = (
        msgspec.structs.replace(letter, body=b"", item=b"", start_item=b"", traceback="")
        for page in choice.pages(operator)
        for letter in page
    )
    return grouped(bare)


def _list_each(operator: Operator, choice: Choice, limit: int | None, after: int, *, as_json: bool) -> int:
    found: list[Failed] = []
    left = limit
    for page in choice.pages(operator, after, min(100, limit or 100)):
        shown = page if left is None else page[:left]
        if as_json:
            sys.stdout.write("".join(f"{msgspec.json.encode(summary_of(each)).decode()}\n" for each in shown))
        else:
            found += [msgspec.structs.replace(each, traceback="") for each in shown]
        left = None if left is None else left - len(shown)
        after = shown[-1].position
        if left == 0:
            break
    if as_json:
        return exits.OK
    heading = ("position", "node", "kind", "attempts", "failed at", "value", "error")
    rows = [
        (str(each.position), each.node, each.kind, str(each.attempts), moment(each.failed_at),
         preview(each.body), first_line(each.error))
        for each in found
    ]  # fmt: skip
    if not rows:
        print(f"{operator.id}: no failed items" + (f" after position {after}" if after else ""))
        return exits.OK
    print_table(heading, rows)
    if left == 0 and next(choice.pages(operator, after, 1), None):
        print(f"\nThere are more: --after {after}", file=sys.stderr)
    return exits.OK


def show_failed(operator: Operator, position: int, *, as_json: bool) -> int:
    """Print all that is known of one failed item; return the exit code."""
    letter = one(operator, position)
    if as_json:
        print(pretty(everything_of(letter)))
        return exits.OK
    value = _shown(letter.body) or "not kept (option input_store)"
    item = "the same" if letter.failed_item == letter.body else _shown(letter.failed_item)
    facts = [
        ("node", letter.node),
        ("reason", f"{letter.kind}: {letter.error.strip()}"),
        ("value", value),
        ("failed item", item if letter.failed_item else _unknown(letter)),
        ("edge", letter.edge or "not known"),
        ("way", " -> ".join(letter.path) or "not known"),
        ("entered at", ", ".join(letter.enters)),
        ("attempts", f"{letter.attempts} failed, {letter.handed_out} handed out"),
        ("accepted", moment(letter.accepted_at)),
        ("failed", moment(letter.failed_at)),
    ]
    print(f"{operator.id}: failed item at position {position}")
    width = max(len(name) for name, _ in facts)
    for name, text in facts:
        print(f"  {name.ljust(width)}  " + text.replace("\n", f"\n{' ' * (width + 4)}"))
    if letter.traceback:
        print(f"\n{letter.traceback.rstrip()}")
    if not letter.body:
        print(
            f"\nThrow it away: consecutiond failed discard {operator.words} {position}\n"
            f"Give it a value: consecutiond failed edit {operator.words} {position} --value JSON"
        )
        return exits.OK
    print(
        f"\nTry it again: consecutiond failed replay {operator.words} {position}\n"
        f"Look into it with a debugger: consecutiond failed replay {operator.words} {position} --debug\n"
        f"Change its value: consecutiond failed edit {operator.words} {position}\n"
        f"Throw it away: consecutiond failed discard {operator.words} {position}"
    )
    return exits.OK


def _unknown(letter: Failed) -> str:
    return "not known: it was too large to be kept, or was edited" if letter.body else "not kept"


def _shown(body: bytes) -> str:
    return msgspec.json.format(json_of(value_of(body)), indent=2).decode() if body else ""


def show_audit(operator: Operator, *, as_json: bool) -> int:
    """Print what operators have done, the oldest first; return the exit code."""
    audits = list(operator.audits())
    if as_json:
        print(pretty(audits))
    elif not audits:
        print(f"{operator.id}: no operator has done anything yet")
    else:
        rows = [(moment(each.at), each.who, each.what, f"{each.count:,}", each.which) for each in audits]
        print_table(("when", "who", "what", "how many", "which"), rows)
    return exits.OK


def print_table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under headings; a terminal gets them cut to its width, a pipe gets whole lines."""
    if sys.stdout.isatty():
        _print_rich(heading, rows)
        return
    widths = [max(map(len, column)) for column in zip(heading, *rows, strict=True)]
    for row in (heading, *rows):
        cells = (
            cell.rjust(width) if name in _RIGHT else cell.ljust(width)
            for cell, width, name in zip(row, widths, heading, strict=True)
        )
        print("  ".join(cells).rstrip())


def _print_rich(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 1))
    for name in heading:
        right = name in _RIGHT
        table.add_column(name, justify="right" if right else "left", no_wrap=name not in ("error", "value", "which"))
    for row in rows:
        # Text: what users write may look like markup.
        table.add_row(*map(Text, row))
    Console(highlight=False).print(table)
