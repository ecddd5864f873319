"""The mechanism, tried on a small module in processes of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.crash.points import KILLED, Kind, Side, points_of

SAMPLE = """
import asyncio
from contextlib import asynccontextmanager

@asynccontextmanager
async def scope():
    print("enter", flush=True)
    yield
    print("exit", flush=True)

async def items():
    yield 1

async def say(word):
    print(word, flush=True)
    return word

class Story:
    async def tell(self):
        try:
            async with scope():
                await say(await say("inner"))
                async for item in items():
                    pass
                return [n async for n in items()]
        finally:
            print("finally", flush=True)

async def fail():
    await say("failing")
    await asyncio.wait_for(
        say(1 / 0),
        1,
    )

if __name__ == "__main__":
    import sample
    import sys
    asyncio.run(sample.fail() if "fail" in sys.argv else sample.Story().tell())
"""
TELL = "sample:Story.tell"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "sample.py").write_text(SAMPLE)
    return tmp_path


def run(folder: Path, *arguments: str, at: str = "") -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "PYTHONPATH": f"{folder}:{Path.cwd()}",
        "CRASH_MODULES": "sample",
        "CRASH_AT": at,
        "CRASH_VISITS": str(folder / "visits.json"),
    }
    command = [sys.executable, "-m", "tests.crash.under", "-m", "sample", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_points_are_listed_in_the_order_of_the_source(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every await, both ends of every `async with`, every step of an `async for`; and nothing else."""
    monkeypatch.syspath_prepend(str(folder))

    found = [(point.name, point.kind) for point in points_of("sample")]

    assert found[:6] == [
        (f"{TELL}#1", Kind.ENTER),
        (f"{TELL}#2", Kind.EXIT),
        (f"{TELL}#3", Kind.AWAIT),
        (f"{TELL}#4", Kind.AWAIT),
        (f"{TELL}#5", Kind.NEXT),
        (f"{TELL}#6", Kind.NEXT),
    ]
    assert [name for name, _ in found[6:]] == ["sample:fail#1", "sample:fail#2"]


@pytest.mark.parametrize(
    ("at", "said"),
    [
        ("#1 before 1", []),
        ("#1 after 1", ["enter"]),
        ("#4 before 1", ["enter"]),
        ("#4 after 1", ["enter", "inner"]),
        ("#3 after 1", ["enter", "inner", "inner"]),
        ("#5 after 2", ["enter", "inner", "inner"]),
        ("#2 before 1", ["enter", "inner", "inner"]),
        ("#2 after 1", ["enter", "inner", "inner", "exit"]),
    ],
)
def test_a_process_dies_at_its_point(folder: Path, at: str, said: list[str]) -> None:
    """At that side of it and at that visit, with no `finally`."""
    ended = run(folder, at=TELL + at)

    assert (ended.returncode, ended.stdout.split()) == (KILLED, said), ended.stderr


def test_a_process_that_is_not_armed_only_counts(folder: Path) -> None:
    """It does what it would do, and tells at its end what it has passed."""
    ended = run(folder)

    assert (ended.returncode, ended.stdout.split()[-1]) == (0, "finally"), ended.stderr
    counted = json.loads((folder / "visits.json").read_text())
    assert counted[f"{TELL}#5 {Side.AFTER}"] == 2  # its item, and its end
    assert {name for name in counted if name.endswith(Side.BEFORE)} == {
        f"{TELL}#{number} {Side.BEFORE}" for number in range(1, 7)
    }


def test_an_await_that_raises_passes_one_side(folder: Path) -> None:
    """Its traceback shows the lines of the source, and no byte code is kept."""
    ended = run(folder, "fail")

    line = SAMPLE.split("\n").index("        say(1 / 0),") + 1
    assert f'sample.py", line {line}, in fail' in ended.stderr
    counted = json.loads((folder / "visits.json").read_text())
    assert "sample:fail#2 before" in counted
    assert "sample:fail#2 after" not in counted
    assert not list(folder.rglob("*.pyc"))
