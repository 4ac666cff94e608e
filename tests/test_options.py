"""Options as people read them, whatever types the model may come to have, and the reference page made of them."""

from pathlib import Path
from typing import Any, Literal

import pytest
import typer
from pydantic import Field, create_model
from typer.testing import CliRunner

from consecutiond import options, reference
from consecutiond.cli.options import with_options
from consecutiond.config import ConfigError, Settings
from consecutiond.effective import Given

PAGE = Path(__file__).parents[1] / "docs" / "configuration.md"


def option(annotation: Any, field: Any) -> options.Option:
    return options._option("some_name", create_model("Some", some_name=(annotation, field)).model_fields["some_name"])


@pytest.mark.parametrize(
    ("annotation", "default", "shown"),
    [
        (int, 3, ("integer", "3")),
        (float, 60.0, ("number", "60")),
        (float | None, None, ("number", "")),
        (str, "", ("string", "")),
        (bool, True, ("boolean", "true")),
        (Path, Path("x"), ("path", "x")),
        (Literal["a", "b"], "a", ("a | b", "a")),
        (tuple[str, ...], (), ("list of strings", "()")),
        (str | list[Path], "", ("string | list of paths", "")),
    ],
)
def test_a_type_and_a_default_are_said_in_words(annotation: Any, default: Any, shown: tuple[str, str]) -> None:
    found = option(annotation, default)
    assert (found.type, found.default) == shown
    assert (found.flag, found.variable) == ("--some-name", "CONSECUTIOND_SOME_NAME")


def test_a_range_is_said_with_all_its_bounds() -> None:
    assert option(int, Field(3, ge=1, lt=9, multiple_of=2)).range == "≥ 1, < 9, a multiple of 2"
    assert option(float, Field(3, gt=0, le=0.5)).range == "> 0, ≤ 0.5"


def invoke(*arguments: str) -> tuple[int, Any, str]:
    """Run a verb with the generated options; return its exit code, what it was given, and its output."""
    seen: list[Any] = []
    app = typer.Typer(rich_markup_mode=None)

    @app.command()
    @with_options()
    def verb(given: Given, target: str, own: bool = False) -> None:
        seen.append((given, target, own))

    result = CliRunner().invoke(app, list(arguments))
    return result.exit_code, seen[0] if seen else None, result.output


def test_a_verb_gets_what_was_given_and_nothing_else() -> None:
    assert invoke("flow.py", "--own") == (0, (Given({}, None), "flow.py", True), "")
    code, found, _ = invoke("--max-pending", "x", "flow.py", "--id", "", "--input", "a", "--input", "b")
    assert code == 0
    assert found == (Given({"max_pending": "x", "id": "", "input": ["a", "b"]}, None), "flow.py", False)


def test_the_configuration_file_is_named_by_an_option() -> None:
    assert invoke("flow.py", "--config", "x.toml")[1][0] == Given({}, Path("x.toml"))


def test_a_boolean_is_a_pair_of_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    field = create_model("Some", fast=(bool, Field(True, description="go fast"))).model_fields["fast"]
    monkeypatch.setitem(Settings.model_fields, "fast", field)
    assert invoke("x")[1][0] == Given({}, None)
    assert invoke("x", "--fast")[1][0] == Given({"fast": True}, None)
    assert invoke("x", "--no-fast")[1][0] == Given({"fast": False}, None)


def test_a_verb_may_ask_for_some_options_only() -> None:
    app = typer.Typer(rich_markup_mode=None)

    @app.command()
    @with_options("dir")
    def verb(given: Given, id: str) -> None: ...

    shown = CliRunner().invoke(app, ["--help"]).output
    assert "--dir" in shown
    assert "--config" in shown
    assert "--max-pending" not in shown


def test_a_verb_cannot_hide_an_option_nor_ask_for_one_that_there_is_not() -> None:
    def verb(given: Given, max_pending: int) -> None: ...

    with pytest.raises(ConfigError, match="max_pending"):
        with_options()(verb)
    with pytest.raises(ConfigError, match="max_pendng"):
        with_options("max_pendng")


def test_more_inputs_are_added_to_those_of_the_option() -> None:
    assert Given({"input": ["a"], "id": "x"}).with_inputs(["b"]) == Given({"input": ["a", "b"], "id": "x"})
    assert Given({"id": "x"}).with_inputs([]) == Given({"id": "x"})


def test_the_reference_page_is_up_to_date_or_run_python_m_consecutiond_reference(tmp_path: Path) -> None:
    assert reference.main(["--check", str(PAGE)]) == 0


def test_a_page_that_is_out_of_date_is_found_and_made_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Title\n\n<!-- table: options -->\n| old |\n<!-- end -->\n\nThe rest | stays.\n")
    assert reference.main(["--check", str(page)]) == 1
    assert f"python -m consecutiond.reference {page}" in capsys.readouterr().err
    assert reference.main([str(page)]) == 0
    assert reference.main(["--check", str(page)]) == 0
    text = page.read_text()
    assert text.startswith("# Title\n\n<!-- table: options -->\n| option |")
    assert text.endswith("|\n<!-- end -->\n\nThe rest | stays.\n")
    assert "| `batch_items` | integer | `1024` | ≥ 1, ≤ 4096 | `CONSECUTIOND_BATCH_ITEMS` | items in" in text
    assert "| old |" not in text
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert [row.split("`")[1] for row in rows] == list(Settings.model_fields)


def test_a_page_without_the_marks_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Title\n")
    assert reference.main([str(page)]) == 2
    assert "<!-- table: options -->" in capsys.readouterr().err
