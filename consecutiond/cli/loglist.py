"""``consecutiond log list``: completed inputs, one by one."""

import sys
from itertools import islice
from typing import Any

import msgspec

from consecutiond.cli import exits
from consecutiond.cli.failedlist import print_table
from consecutiond.cli.failedvalues import json_of, moment, preview
from consecutiond.cli.logchoice import Choice
from consecutiond.kept import Root, body_of
from consecutiond.operator import Operator


def list_completed(operator: Operator, choice: Choice, limit: int | None, *, as_json: bool) -> int:
    """Print completed inputs; return the exit code.

    Args:
        operator: the consecutor's.
        choice: which are meant.
        limit: how many at the utmost; None means all.
        as_json: one object a line.
    """
    found = choice.roots(operator)
    if as_json:
        for root in islice(found, limit):
            sys.stdout.write(f"{msgspec.json.encode(_object(root)).decode()}\n")
        return exits.SOME_FAILED if choice.warn() else exits.OK
    rows = [
        (str(root.position), moment(root.accepted_at), moment(root.completed_at), preview(body_of([root])))
        for root in islice(found, limit)
    ]
    code = exits.SOME_FAILED if choice.warn() else exits.OK
    if not rows:
        kind = "" if choice.words == "all" else " of that kind"
        print(f"{operator.id}: no completed inputs{kind} are kept")
        return code
    print_table(("position", "accepted", "completed", "value"), rows)
    if next(found, None) is not None:
        print(f"\nThere are more than {limit:,}: --limit 0 shows all", file=sys.stderr)
    return code


def _object(root: Root) -> dict[str, Any]:
    return {
        "position": root.position, "accepted_at": root.accepted_at, "completed_at": root.completed_at,
        "value": msgspec.Raw(json_of(msgspec.msgpack.decode(root.value))),
    }  # fmt: skip
