"""What the benches share: the list of all of them, and how a slope is told."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bench.all import BENCHES, HERE, Bench, keeps, run, script_of
from bench.proc import cpu_seconds, pss_mb, slope


def script(folder: Path, body: str) -> Bench:
    """A bench that does only this."""
    (folder / "made.py").write_text(body)
    return Bench("made", "--short", "--long", 1.0)


def test_every_bench_that_keeps_a_record_is_in_the_list() -> None:
    """A new bench that nobody added would be missing from `make bench` without a word."""
    scripts = [*HERE.glob("*.py"), *(path.parent for path in HERE.glob("*/__main__.py"))]
    keeping = {path.stem for path in scripts if path.name not in ("all.py", "record.py") and keeps(path)}

    assert {"replicas", "resident"} <= keeping <= {one.name for one in BENCHES}


def test_one_that_is_not_there_is_named(tmp_path: Path) -> None:
    """The others go on, and nothing is left out silently."""
    [outcome] = run([Bench("gone", "", "", 1.0)], full=False, keep=tmp_path, folder=tmp_path)

    assert (outcome.name, outcome.how, outcome.ok) == ("gone", "not there", False)


@pytest.mark.parametrize(("full", "said"), [(False, "--short"), (True, "--long")])
def test_a_form_has_its_own_arguments(tmp_path: Path, full: bool, said: str) -> None:
    """And one that keeps no record is given no file to keep it in."""
    one = script(tmp_path, f"import sys\nsys.exit(sys.argv[1:] != [{said!r}])")

    assert [found.how for found in run([one], full=full, keep=tmp_path, folder=tmp_path)] == ["measured"]


def test_the_bars_of_a_kept_record_are_counted(tmp_path: Path) -> None:
    """Those that could not be measured count as not met."""
    body = (
        '# keeping(parser)\nimport sys\nopen(sys.argv[-1], \'w\').write(\'{"bars": [{"met": true}, {"met": null}]}\')'
    )

    [outcome] = run([script(tmp_path, body)], full=False, keep=tmp_path, folder=tmp_path)

    assert (outcome.met, outcome.bars) == (1, 2)


def test_a_failure_is_said_and_the_next_one_runs(tmp_path: Path) -> None:
    """With the status that it ended with."""
    one = script(tmp_path, "raise SystemExit(3)")

    assert [found.how for found in run([one, one], full=False, keep=tmp_path, folder=tmp_path)] == [
        "failed: status 3",
        "failed: status 3",
    ]


def test_a_long_form_that_hangs_is_ended(tmp_path: Path) -> None:
    """Its own time is over, and the next one's turn has come."""
    script(tmp_path, "import time\ntime.sleep(600)")

    [outcome] = run([Bench("made", "", "", 0.001)], full=True, keep=tmp_path, folder=tmp_path)

    assert outcome.how.startswith("ended: ")


def test_a_folder_is_a_bench_too() -> None:
    """The peers are a package."""
    assert script_of("peers") == HERE / "peers"


def test_a_slope_is_told_with_its_error() -> None:
    """A line has none, and what is not one has some."""
    rise, error = slope([(0.0, 1.0), (1.0, 3.0), (2.0, 5.0)])
    _, bent = slope([(0.0, 1.0), (1.0, 3.0), (2.0, 9.0)])

    assert (rise, error) == (2.0, 0.0)
    assert bent > 0.5


def test_a_process_has_used_something() -> None:
    """Read from the kernel: seconds of a core, and megabytes."""
    assert cpu_seconds(os.getpid()) > 0
    assert 1 < pss_mb(os.getpid()) < 10_000
