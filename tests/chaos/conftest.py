"""What the chaos rows share: their scale, and the row of the table that each of them fills in.

    @pytest.mark.chaos
    def test_f01_…(row: Row, scale: Scale, tmp_path: Path) -> None:
        kills = scale.pick(6, 150)
        row.fault, row.how = "F01 kill -9 of a worker", f"{kills} kills, one every 2 s"

Each row runs in two forms: `short` in every run of the tests, `full` where the marker `long` is asked for, as in
`make chaos`. CHAOS_SCALE=0.1 in the environment makes the full form smaller.
"""

import os
from collections.abc import Generator, Iterator
from dataclasses import dataclass

import pytest

from tests.chaos.table import Row

_OUTCOME = pytest.StashKey[str]()


@dataclass(frozen=True)
class Scale:
    """How large a row is."""

    name: str
    factor: float

    @property
    def full(self) -> bool:
        return self.name == "full"

    def pick(self, short: int, full: int) -> int:
        """Return the number for this form."""
        return max(1, round(full * self.factor)) if self.full else short

    def __str__(self) -> str:
        return self.name if self.factor == 1 else f"{self.name} x {self.factor:g}"


@pytest.fixture(params=["short", pytest.param("full", marks=pytest.mark.long)])
def scale(request: pytest.FixtureRequest) -> Scale:
    """The form in which a row runs."""
    full = request.param == "full"
    return Scale(request.param, float(os.environ.get("CHAOS_SCALE", "1")) if full else 1.0)


@pytest.fixture
def row(request: pytest.FixtureRequest, scale: Scale) -> Iterator[Row]:
    """The row of the table; it is written down when the test has ended, whatever its outcome."""
    row = Row(request.node.nodeid.partition("[")[0], str(scale), fault=request.node.originalname)
    yield row
    row.outcome = request.node.stash.get(_OUTCOME, "not finished")
    row.save()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.when == "call":
        item.stash[_OUTCOME] = report.outcome
    return report
