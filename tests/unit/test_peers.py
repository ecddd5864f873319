"""What the benches of the peers are put together from; the peers themselves are never installed by a test."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from bench.http1 import for_seconds
from bench.peers.drivers import speak
from bench.peers.installs import PEERS, last_words
from bench.peers.tally import BARS, LIVES, OURS, SUBMITS, Bar, Tally
from bench.record import Record

BAR = Bar(measure=LIVES, times=1.5, of=("quick", "slow"))


def tally(**rates: list[float]) -> Tally:
    made = Tally()
    for subject, each in rates.items():
        for rate in each:
            made.add(OURS if subject == "ours" else subject, LIVES, rate)
    return made


def record_of(made: Tally) -> Record:
    """What of it is kept."""
    record = Record("peers", "Peers", "Beside the peers.", "make bench-peers")
    made.fill(record)
    return record


def test_the_median_stands_for_all_rounds() -> None:
    """One round that somebody disturbed moves the spread and not the figure."""
    [(name, figure)] = record_of(tally(ours=[100.0, 3.0, 110.0])).figures.items()

    assert (name, figure.median) == ("controlplane: lifecycles/s", 100.0)
    assert figure.rounds == [100.0, 3.0, 110.0]


def test_a_ratio_is_ours_to_theirs() -> None:
    """Of the medians; more than one is ours ahead."""
    made = tally(ours=[300.0, 200.0, 100.0], slow=[90.0, 100.0, 400.0])

    assert made.ratio(LIVES, "slow") == 2.0
    assert made.ratio(SUBMITS, "slow") is None


@pytest.mark.parametrize(("quick", "met"), [(100.0, True), (101.0, False)])
def test_a_bar_is_held_to_the_best_of_them(quick: float, met: bool) -> None:
    """The slow one makes nothing easier."""
    [verdict] = tally(ours=[150.0], quick=[quick], slow=[1.0]).verdicts([BAR])

    assert verdict.best == "quick"
    assert verdict.met is met


def test_a_bar_is_not_met_by_who_is_missing() -> None:
    """The one that did not run may have been the best: what cannot be known is not claimed."""
    [verdict] = tally(ours=[1_000.0], slow=[1.0]).verdicts([BAR])

    assert verdict.missing == ("quick",)
    assert verdict.met is None


def test_what_is_known_of_a_bar_that_misses_somebody_is_kept_as_a_note() -> None:
    """The bar has no figure, which would look like one of all of them."""
    made = tally(ours=[1_000.0], celery=[1.0])

    record = record_of(made)

    assert all(bar.found is None for bar in record.bars)
    assert any("1000.00 of celery, without dbos, procrastinate: not known" in note for note in record.notes)


def test_a_bar_that_one_of_them_breaks_is_broken() -> None:
    """Whoever is missing, ours is not fast enough."""
    [verdict] = tally(ours=[1.0], slow=[1.0]).verdicts([BAR])

    assert verdict.met is False


def test_nothing_measured_is_nothing_known() -> None:
    """A run in which all fail still ends with a table and a last line that a machine reads."""
    made = Tally(absent={"dbos": "not installed: no network"})

    said: Any = json.loads(json.dumps(record_of(made).facts()))

    assert [bar["met"] for bar in said["bars"]] == [None] * len(BARS)
    assert said["notes"] == ["dbos was not measured to the end: not installed: no network"]
    assert any("no network" in line for line in made.lines())


def test_every_bar_is_of_somebody_who_is_measured() -> None:
    """A name that was misspelt would be missing for ever."""
    known = {peer.name for peer in PEERS} | {"fastapi, one insert", "fastapi, no database"}

    assert {name for bar in BARS for name in bar.of} == known


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_a_peer_is_held_to_a_range(peer: Any) -> None:
    """What is compared is the major version that its settings were chosen for."""
    assert all("<" in package for package in peer.packages[:2] if peer.name in package)


def test_the_last_words_are_the_error() -> None:
    """A traceback ends with what went wrong."""
    assert last_words("Traceback:\n  File\nOSError: gone\n\n") == "OSError: gone"
    assert last_words("") == "without a word"


def test_time_is_given_until_it_is_over() -> None:
    """The first request comes before any time has passed, and no time is no request."""
    assert next(for_seconds(60.0), "over") is None
    assert list(for_seconds(0.0)) == []


def peer(echo: Callable[[dict[str, Any]], object], *, threads: bool) -> speak.Peer:
    """One that keeps its results in memory, at once."""
    kept: list[object] = []

    def put(payload: dict[str, Any]) -> int:
        kept.append(echo(payload))
        return len(kept) - 1

    async def put_here(payload: dict[str, Any]) -> int:
        await asyncio.sleep(0)
        return put(payload)

    @contextlib.asynccontextmanager
    async def client() -> AsyncIterator[speak.Client]:
        yield speak.Client(put=put if threads else put_here, result=kept.__getitem__, finished=kept.__len__)

    return speak.Peer(packages=("pytest",), setup=lambda: None, client=client, work=lambda: None)


@pytest.mark.parametrize("threads", [True, False], ids=["threads", "loop"])
async def test_a_driver_counts_what_it_saw_finish(threads: bool) -> None:
    """The first one, which proves that results are kept, is not counted, and nothing is left."""
    answer = await speak.answer(peer(lambda payload: payload, threads=threads), "lives", 0.05, 4, 1.0)

    assert answer["count"] > 0
    assert answer["left"] == 0


async def test_a_driver_reads_a_result_before_it_measures() -> None:
    """A peer that keeps something else is not compared."""
    with pytest.raises(RuntimeError, match="result of the first"):
        await speak.answer(peer(lambda _: None, threads=True), "lives", 0.05, 4, 1.0)
