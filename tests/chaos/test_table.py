"""The table of the chaos rows: what is in it, which form of a row, and where it goes."""

from pathlib import Path

import pytest

from tests.chaos import table
from tests.chaos.table import Row


@pytest.fixture(autouse=True)
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(table, "RESULTS", tmp_path / "results")
    return tmp_path / "results"


def row(name: str, form: str = "full", **figures: object) -> Row:
    row = Row(f"tests/chaos/test_rows.py::test_{name}", form, fault=name, how="once", outcome="passed")
    for figure, value in figures.items():
        setattr(row, figure, value)
    row.save()
    return row


def test_rows_come_in_the_order_of_their_faults_and_in_the_full_form_if_they_have_run_in_it() -> None:
    row("f02", "short")
    row("f01", "short", accepted=1)
    full = row("f01", "full x 0.1", accepted=2)
    assert [(found.fault, found.form) for found in table.rows()] == [("f01", full.form), ("f02", "short")]
    assert "rows: 1 full x 0.1, 1 short" in table.caption(table.rows())


def test_a_row_says_what_was_found() -> None:
    row("f01", accepted=1000, repeated=7, recovery_s=[0.5, 0.1, 2.0], grown_mib=3.4, grown_part="acker", notes=["a|b"])
    *_, line = table.table(table.rows())
    assert line == (
        "| f01 | once | 0 of 1,000 | 7 lines | 0.50, 2.00, 2.00 s | +3 MiB (acker) | a/b "
        "| `tests/chaos/test_rows.py::test_f01` |"
    )


def test_a_row_that_failed_says_so_and_so_does_the_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["table", "--print"])
    assert table.main() == 1
    row("f01")
    assert table.main() == 0
    row("f02", outcome="failed", accepted=1000)
    assert table.main() == 1
    assert "| **failed** |" in "".join(table.table(table.rows()))


def test_the_99th_percentile_is_one_of_the_values_and_at_least_that_high() -> None:
    assert table.times([float(number) for number in range(200)]) == "99.50, 198.00, 199.00 s"
    assert table.times([]) == ""


def test_the_table_goes_between_its_markers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert table.PAGE.read_text(encoding="utf-8").count(table._BEGIN) == 1
    page = tmp_path / "page.md"
    page.write_text(f"before\n{table._BEGIN}old\n{table._END}\nafter\n")
    monkeypatch.setattr(table, "PAGE", page)
    row("f01")
    table.write()
    table.write()
    written = page.read_text()
    assert written.startswith(f"before\n{table._BEGIN}Measured by")
    assert written.endswith(f"`tests/chaos/test_rows.py::test_f01` |\n{table._END}\nafter\n")
    assert "old" not in written
