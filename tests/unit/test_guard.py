"""Pictures that kill the process, played out in one process: a death is an exception."""

from __future__ import annotations

from collections import Counter

import pyarrow as pa
import pytest

from vsa_ray import schema
from vsa_ray.datasets.guard import ALONE, STATUS, TOGETHER, Counts, failed, guarded
from vsa_ray.spans import Span

SPAN = Span(3, 8, 12)


class Death(BaseException):
    """Of the process."""


class Stage:
    def __init__(self, *deadly: str, death: type[BaseException] = Death) -> None:
        self.deadly, self.death = deadly, death
        self.calls = Counter[int]()

    def __call__(self, table: pa.Table) -> pa.Table:
        self.calls[len(table)] += 1
        for row in table.to_pylist():
            if row["image_id"] in self.deadly and row["status"] == "ok":
                raise self.death
        return table.select(["image_id", "status", "error"])


def batch() -> pa.Table:
    rows = [{"image_id": one, "status": "ok", "error": None} for one in "abcd"]
    return pa.Table.from_pylist(rows, schema=pa.schema({k: pa.string() for k in rows[0]}))


def until_it_lives(stage: Stage, tally: Counts) -> tuple[pa.Table, int]:
    """As Ray does: the same batch again after each death."""
    for deaths in range(50):
        try:
            return guarded(stage, "Stage", tally, SPAN, batch()), deaths
        except Death:
            pass
    raise AssertionError("for ever")


def test_nothing_happens() -> None:
    tally, stage = Counts(), Stage()
    assert until_it_lives(stage, tally) == (batch(), 0)
    assert stage.calls == {4: 1}
    assert not tally._begun


def test_one_picture_is_given_up_and_the_others_are_not() -> None:
    tally, stage = Counts(), Stage("c")
    table, deaths = until_it_lives(stage, tally)
    assert deaths == TOGETHER + ALONE
    assert table["status"].to_pylist() == ["ok", "ok", STATUS, "ok"]
    assert "died 3 times" in table["error"][2].as_py()
    others = pa.array([True, True, False, True])
    assert table.filter(others) == batch().filter(others)


def test_what_was_given_up_is_remembered() -> None:
    """Should its result be lost with a node, and the batch come again."""
    tally = Counts()
    until_it_lives(Stage("c"), tally)
    table, deaths = until_it_lives(Stage("c"), tally)
    assert deaths <= TOGETHER
    assert table["status"].to_pylist() == ["ok", "ok", STATUS, "ok"]


def test_all_pictures_of_a_batch() -> None:
    table, deaths = until_it_lives(Stage(*"abcd"), Counts())
    assert table["status"].to_pylist() == [STATUS] * 4
    assert deaths == TOGETHER + 4 * ALONE


def test_workers_killed_from_outside_blame_no_picture() -> None:
    tally = Counts()
    for _ in range(TOGETHER + ALONE - 1):
        with pytest.raises(Death):
            guarded(Stage(*"abcd"), "Stage", tally, SPAN, batch())
    assert guarded(Stage(), "Stage", tally, SPAN, batch()) == batch()


def test_a_library_that_wants_to_end_the_process() -> None:
    tally = Counts()
    table = guarded(Stage("b", death=SystemExit), "Stage", tally, SPAN, batch())
    assert table["status"].to_pylist() == ["ok", STATUS, "ok", "ok"]
    assert not tally._begun


def test_an_error_is_no_crash() -> None:
    with pytest.raises(ZeroDivisionError):
        guarded(Stage("b", death=ZeroDivisionError), "Stage", Counts(), SPAN, batch())


@pytest.mark.parametrize("columns", [schema.IMAGES, schema.REGIONS], ids=["images", "regions"])
def test_a_failed_row(columns: pa.Schema) -> None:
    row = {"image_id": "a", "uri": "/a", "split": "dev"}
    more = {"width": 3, "height": 4, "boxes": [[0, 0, 3, 4]], "status": "ok"}
    more = {name: value for name, value in more.items() if name in columns.names}
    (found,) = failed(pa.Table.from_pylist([row | more], schema=columns), "why").to_pylist()
    assert found.items() >= {**row, "status": STATUS, "error": "why"}.items()
    if "boxes" in found:
        assert (found["width"], found["boxes"], found["features"]) == (0, [], [])
