"""Roots that are tried again, and replayed, after a part of what they write was written: all of it is there once."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from consecutiond import Consecutor, JsonLinesOutput, Summary
from consecutiond.cli.app import app
from tests.chaos.oracle import lines
from tests.graphs import again

COUNT = 200


def expected(values: range) -> Counter[Any]:
    return Counter((place, value) for value in values for place in ("first", "second", 0, 1, 2))


@pytest.mark.parametrize("architecture", ["process", "thread"])
def test_what_was_written_before_a_failure_is_not_written_again(
    tmp_path: Path, architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = tmp_path / "held"
    held.touch()
    monkeypatch.setenv("AGAIN_HELD", str(held))

    def run(inputs: range) -> tuple[Summary, list[Any]]:
        raw: list[Any] = []
        output = JsonLinesOutput(tmp_path / "out" / "lines.jsonl")
        consecutor = Consecutor(
            again.graph, architecture, target=f"{again.__file__}:graph", id="again", dir=tmp_path, max_attempts=2,
            retry_backoff_s=0.01,
        )  # fmt: skip
        consecutor.register_output("lines", output).register_output("raw", raw)
        summary = consecutor.produce_from_iterable(inputs, progress=False)
        output.close()
        return summary, raw

    def written() -> Counter[Any]:
        return Counter(map(tuple, lines(tmp_path / "out" / "lines.jsonl")))

    summary, raw = run(range(COUNT))
    assert (summary.completed, summary.failed) == (COUNT * 4 // 5, COUNT // 5)
    assert len(raw) > COUNT
    assert written() == expected(range(COUNT)) - Counter(
        (number, value) for value in range(0, COUNT, 5) for number in range(3)
    )
    held.unlink()
    done = CliRunner().invoke(app, ["failed", "replay", "again", "--all", "--yes", "--dir", str(tmp_path)])
    assert done.exit_code == 0, done.output
    summary, raw = run(range(COUNT, COUNT + 10))
    assert (summary.failed, summary.open, summary.completed) == (0, 0, COUNT // 5 + 10)
    assert len(raw) >= COUNT // 5 + 10
    assert written() == expected(range(COUNT + 10))
