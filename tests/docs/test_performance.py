"""docs/performance.md says what the kept runs say, and above all what they do not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.record import Record
from tests.docs.performance import ALL_MET, NOBODY_AHEAD, NOTHING_YET, performance


def made_up(folder: Path, *, ours: float = 300.0, theirs: float = 100.0, **more: Any) -> Record:
    """A run that nobody has measured, kept as a bench keeps it."""
    record = Record("made", "Made up, for a test", "Nothing at all.", "make bench-made", settings={"rounds": 3}, **more)
    record.add("controlplane: submits/s", "per second", ours, ours + 1, ours - 1)
    record.add("other: submits/s", "per second", theirs)
    record.bar("ours to other", record.ratio("controlplane: submits/s", "other: submits/s"), at_least=2)
    record.tell(folder / "made.json")
    return record


def test_a_page_without_a_run_says_so(tmp_path: Path) -> None:
    """A fresh clone has figures of nobody's."""
    assert NOTHING_YET in performance(tmp_path)


def test_a_part_says_what_was_measured_on_what_and_how(tmp_path: Path) -> None:
    """Each run has its sentence, command, machine, versions, settings, and its figures with their spread."""
    made_up(tmp_path)

    page = performance(tmp_path)

    assert "## Made up, for a test\n\nNothing at all.\n" in page
    assert "- repeat it: `make bench-made`" in page
    assert "- settings: rounds 3" in page
    assert "asyncpg " in page
    assert "| controlplane: submits/s | 300 | 299 to 301 | per second | 3 |" in page


def test_bars_that_hold_are_all_that_is_said_of_them(tmp_path: Path) -> None:
    """Nothing is listed as missed, and the part has the bar itself."""
    made_up(tmp_path)

    page = performance(tmp_path)

    assert ALL_MET in page
    assert "| ours to other | 3 | at least 2 | met |" in page


@pytest.mark.parametrize(("theirs", "says"), [(200.0, "1.5 | at least 2 | **NOT met**"), (0.0, "not measured")])
def test_a_bar_that_does_not_hold_stands_before_all_parts(tmp_path: Path, theirs: float, says: str) -> None:
    """Missed and unmeasured ones come first, with a link to their part."""
    made_up(tmp_path, theirs=theirs)

    page = performance(tmp_path)
    row = next(line for line in page.splitlines() if line.startswith("| [Made up, for a test](#made-up-for-a-test)"))

    assert says in row
    assert "Of 1 bars 0 were met" in page
    assert page.index(row) < page.index("## Made up")


def test_who_is_ahead_is_read_from_the_figures(tmp_path: Path) -> None:
    """Whoever did more per second in the same run is named, with how much more."""
    made_up(tmp_path, theirs=600.0)

    assert "| submits/s | other | 600 | 300 | 2.00 |" in performance(tmp_path)


def test_nobody_ahead_is_said_only_where_others_were_measured(tmp_path: Path) -> None:
    """Figures of ours alone compare with nobody."""
    made_up(tmp_path)
    page = performance(tmp_path)
    alone = json.loads((tmp_path / "made.json").read_text())
    del alone["figures"]["other: submits/s"]
    (tmp_path / "made.json").write_text(json.dumps(alone))

    assert NOBODY_AHEAD in page
    assert "another is ahead" not in performance(tmp_path)


def test_notes_and_nested_settings_cannot_break_the_page(tmp_path: Path) -> None:
    """A line break ends no list item, a bar no cell."""
    record = made_up(tmp_path, notes=["two\nlines"])
    record.settings = {"postgres": {"shared_buffers": "512MB"}, "command": "a | b"}
    record.tell(tmp_path / "made.json")

    page = performance(tmp_path)

    assert "- two lines\n" in page
    assert "- settings: postgres (shared buffers 512MB), command a \\| b\n" in page


def test_every_kept_run_has_its_part() -> None:
    """What is in docs/performance is on the page."""
    folder = Path(__file__).parents[2] / "docs/performance"
    titles = [json.loads(path.read_text())["title"] for path in folder.glob("*.json")]

    assert all(f"## {title}\n" in performance() for title in titles)
