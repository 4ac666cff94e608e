"""The list of rules cannot rot: what is to be taken out is there, so are its tests, and the docs have its table."""

import pytest

from tests.simulation.mutants import ROOT, markdown, source
from tests.simulation.rules import RULES, Mutant


@pytest.mark.parametrize("mutant", RULES, ids=lambda mutant: mutant.rule)
def test_every_rule_is_where_the_list_says(mutant: Mutant) -> None:
    changed = source(ROOT, mutant)
    compile(changed, mutant.file, "exec")
    for test in mutant.tests:
        file, *names = test.split("::")
        text = (ROOT / file).read_text()
        for name in names:
            assert f"class {name}" in text or f"def {name}(" in text or f"{name} = " in text, f"there is no {test}"


def test_no_two_rules_have_one_name() -> None:
    assert len({mutant.rule for mutant in RULES}) == len(RULES)


def test_the_table_in_the_docs_is_that_of_the_list() -> None:
    assert markdown(RULES) in (ROOT / "docs" / "architecture.md").read_text(), (
        "the table is old: take the new one from `python -m tests.simulation.mutants --markdown`"
    )
