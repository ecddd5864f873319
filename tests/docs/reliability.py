"""docs/reliability.md: what is promised and what is not, and what the last runs that tried to break it have shown.

The runs are files in docs/reliability, as the harnesses write them:

    make chaos ARGS="--seed 7 --minutes 30 --folder /tmp/chaos"      ->  chaos-*.json      (its report.json)
    make property ARGS="--seed 1 --folder /tmp/property"             ->  property.json
    make crash ARGS="--json docs/reliability/crash.json"             ->  crash.json
    make crash-awaits ARGS="--json docs/reliability/awaits.json"     ->  awaits.json
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HEAD = "<!-- Made by `make docs` from docs/reliability; a test compares. -->\n\n"
FOLDER = Path(__file__).parents[2] / "docs/reliability"

PROMISES = """# What is promised, and how that is tried

**An accepted execution is never lost, never finished twice, and its caller is told or can see why not.**

This page says what that covers, what it does not, and what the last runs that tried to break it have shown.

## Promised

| promise | through what | what keeps it |
|---|---|---|
| A 202 means that the execution, its place in the queue and its first event are on the disk of the database. | the death of every process; the power of every machine whose disk survives | one transaction before the answer: `stages/submit.py` |
| With a synchronous standby, a 202 means that the standby has it, too. | the loss of the primary | whoever answers for what an earlier try may have left commits behind it first: `postgres/pool.py`, `confirm` |
| The same idempotency key is the same execution. | requests that are repeated or doubled, servers that die before they answer | a primary key |
| An execution ends once, and its end never changes. | late results, two servers at once, processes that were stopped and go on | the row moves from `queue` to `outcomes` in one transaction, fenced by the attempt |
| Only the attempt that holds the lease writes: result, memory, steps, log, children. | nodes that were stopped, cut off or replaced | the attempt stands in the `where` of each write |
| What was checkpointed is not done again; a death in the middle of an item repeats that item at most. | the death of node, server and database | memory is written in the transaction that asks for the fence |
| Every webhook that was asked for is sent until it is heard, or given up in sight. | receivers that fail, hang or lie; the death of the sender anywhere | the delivery is written in the transaction of the outcome |
| A webhook has one id and one body, however often it is sent. | repeats, replays, new secrets | the body is a column, the id is its key |
| A lease that is renewed is not taken away. | outages of server and database, clocks that step | the database's clock alone decides, and silence that is ours does not count: `stages/expire.py` |

What each of these rests on is asked of the database by [`controlplane verify`](howto/verify.md), by a metric while it runs, and at the end of every run below.

## Not promised

- **That your code runs once.** An attempt that dies is begun again at its last checkpoint; what it did since then happens again. Put what must not into a [step](concepts/lifecycle.md), and make it idempotent.
- **That a webhook is sent once.** Who dies between the receiver's answer and writing it down sends again, under the same `webhook-id`: receivers remember ids.
- **What the database itself loses.** After a failover to an *asynchronous* standby everything is missing that it had not received, acknowledged or not: in the test of it exactly the submissions that were held back from it, and asking again under the same keys restored each. With a synchronous standby nothing acknowledged is missing, and writes wait while none is there: see [failover](howto/failover.md).
- **Anything with `fsync` or `synchronous_commit` off**, or on disks that lie.
- **That a repeat is answered the same after a lost answer.** Submitting, leasing, reporting, checkpointing and signalling are: with the same key, session or attempt. A pause, or the removal of a schedule, trigger, limit or endpoint, that had already happened is answered 409 or 404 the second time; the state is right.
- **Notes and log lines exactly once.** They are kept at least once when a sender repeats them, and lines are the first to be shed under load.
- **Order between executions.** The queue goes by priority and age; two may begin, end and be told of in another order than they were accepted.

## What was tried

Every test of `make test` is on a real PostgreSQL. These go further, and have a short form in it:

| what | how | long form |
|---|---|---|
| Every await of the code is a point; the process dies before and after it, is started again, and must come to the same end. | a fork per point, `os._exit`; the list comes from the source, a new await that no story passes fails the test | `make crash`, `make crash-awaits` |
| Random commands beside a small model, servers that die between two statements, two servers at once. | Hypothesis; database and API view equal the model after every step | `make property` |
| Real processes under load, killed, stopped and cut off; an oracle compares files of clients, nodes and receivers with the database. | faults by a printed seed; standby, PgBouncer, Patroni, a full disk, a TCP proxy and stepping clocks as grounds | `make chaos` |
| The claim and the delivery in all states of a small world; each guard left out must break its rule. | [Promela and Spin](concepts/claim-protocol.md) | `make model` |
| Two versions on one database, and every migration under writers. | `tests/e2e/test_versions.py`, `tests/migrations` | |

## What the last runs have shown
"""  # noqa: E501 - one sentence per line

AS_IT_WAS = """
A run is shown as it was, on the machine of the day, with what did not hold.
"""
NOTHING = "**nothing**"


def reliability() -> str:
    """The whole page."""
    return "\n".join([HEAD + PROMISES.rstrip(), *_runs()]) + "\n"


def _runs() -> Iterator[str]:
    yield AS_IT_WAS.rstrip()
    for path in sorted(FOLDER.glob("*.json")):
        told = json.loads(path.read_text())
        tell = _chaos if "faults" in told else _lives if "rules" in told else _kills
        yield from tell(path.stem, told)


def _chaos(name: str, told: dict[str, Any]) -> Iterator[str]:
    figures, broken = told["figures"], told["counts"]
    yield f"\n### {name}: seed {told['seed']}, {told['seconds'] / 60:.0f} minutes\n"
    yield "| fault | rounds |"
    yield "|---|---|"
    for fault, rounds in sorted(told["faults"].items()):
        yield f"| {fault} | {rounds:,} |"
    yield "\n| what | figure |"
    yield "|---|---|"
    for what, count in sorted(figures.items()):
        yield f"| {what.replace('_', ' ')} | {count:,} |"
    calm, storm = told["calm_per_second"], told["storm_per_second"]
    yield f"| ended per second, in calm and under faults | {calm:.1f}, {storm:.1f} |"
    if told["drain_seconds"] is not None:
        yield f"| seconds from the last fault until nothing was unfinished | {told['drain_seconds']:.1f} |"
    named = ", ".join(f"{what}: {count:,}" for what, count in sorted(broken.items()))
    yield f"| **did not hold** | {named or NOTHING} |"


def _lives(name: str, told: dict[str, Any]) -> Iterator[str]:
    yield f"\n### {name}: seed {told['seed']}\n"
    yield "| what | figure |"
    yield "|---|---|"
    yield f"| lives | {told['examples']:,} |"
    yield f"| steps, at most {told['steps_each']} of a life | {told['steps']:,} |"
    yield f"| kinds of step | {len(told['rules']):,} |"
    deaths = {what: count for what, count in told["happened"].items() if not what.startswith("died in ")}
    for what, count in sorted(deaths.items()):
        yield f"| {what} | {count:,} |"
    yield f"| **did not hold** | {len(told['failures']) or NOTHING} |"


def _kills(name: str, told: dict[str, Any]) -> Iterator[str]:
    modules = told["modules"].values()
    points, sides = (sum(one.get(word, 0) for one in modules) for word in ("points", "sides"))
    yield f"\n### {name}\n"
    yield "| what | figure |"
    yield "|---|---|"
    yield f"| modules | {len(modules):,} |"
    if points:
        yield f"| points | {points:,} |"
    yield f"| sides of them | {sides:,} |"
    yield f"| kills | {told['kills']:,} |"
    if told["seed"] is not None:
        yield f"| seed | {told['seed']} |"
    yield f"| **went wrong** | {len(told['failures']) or NOTHING} |"
