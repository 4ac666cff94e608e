"""What the pages say about the code, the tests and each other is so."""

import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.docs import reference
from tests.docs.blocks import PAGES, ROOT, prose_of

IDS = [page.name for page in PAGES]
LINK = re.compile(r"\]\(([^)\s]+)\)")
TEST = re.compile(r"`(tests/[^`\s]+::[^`]+)`")
#: hosts that a page may link to
HOSTS: set[str] = set()
#: places of one machine, and where packages and images come from
PLACES = re.compile(
    r"(?<![\w.])/(?:home|root|work|Users|mnt|media|opt|srv|workspace|builds)\b"
    r"|\b(?:pypi|npmjs|conda|devpi|artifactory|nexus|docker\.io|ghcr|quay\.io)\b|index-url|\b\d+\.\d+\.\d+\.\d+\b",
    re.IGNORECASE,
)


def slugs_of(page: Path) -> set[str]:
    """The anchors of a page, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in LINK.findall(prose_of(page)):
        parts = urlsplit(link)
        if parts.netloc:
            assert parts.netloc in HOSTS, link
            continue
        target = (page.parent / parts.path).resolve() if parts.path else page
        assert target.exists(), link
        assert not parts.fragment or parts.fragment in slugs_of(target), link


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_no_page_names_a_place_of_one_machine_or_a_registry(page: Path) -> None:
    assert not PLACES.findall(page.read_text(encoding="utf-8").replace("127.0.0.1", "loopback"))


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached, todo = set(), [ROOT / "README.md"]
    while todo:
        page = todo.pop()
        reached.add(page)
        links = [(page.parent / urlsplit(link).path).resolve() for link in LINK.findall(prose_of(page))]
        todo += [link for link in links if link in PAGES and link not in reached]
    assert reached == set(PAGES)


def test_every_test_that_a_page_names_exists() -> None:
    named = {test for page in PAGES for test in TEST.findall(page.read_text(encoding="utf-8"))}
    assert named, "guarantees.md names the test behind each row"
    collected = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", *sorted({test.partition("::")[0] for test in named})],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    known = set(collected.stdout.splitlines())
    # a test may be named without its parameters
    known |= {test.partition("[")[0] for test in known}
    assert not named - known, collected.stdout


def test_the_tables_are_those_of_the_code_or_written_anew_with_python_m_tests_docs_reference() -> None:
    pages = {page.name: page.read_text(encoding="utf-8") for page in PAGES}
    assert {name: reference.renewed(content) for name, content in pages.items()} == pages


def test_every_option_verb_and_exit_code_has_its_table() -> None:
    found = [name for page in PAGES for name in reference.names_of(page.read_text(encoding="utf-8"))]
    assert sorted(found) == sorted(reference.tables())
