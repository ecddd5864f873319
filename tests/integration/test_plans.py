"""Plans: with a backlog of 50,000 every hot statement finds its rows by its index, whatever the statistics say.

Generic plans, as the server runs them: with fresh statistics, with those of a table that was small when they were made,
and planned while everything was empty (the plan that a server keeps which was started before the first submit).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg
import pytest

from controlplane.domain.placement import span
from controlplane.postgres.pool import SESSION_SETTINGS, Connection
from controlplane.reads import (
    approvals,
    attempts,
    bulks,
    changes,
    events,
    executions,
    explain,
    feed,
    figures,
    jobs,
    limits,
    pauses,
    windows,
)
from controlplane.reads import audit as audit_reads
from controlplane.reads import deliveries as deliveries_reads
from controlplane.reads import keys as keys_reads
from controlplane.reads import lately as lately_reads
from controlplane.reads import local as local_reads
from controlplane.reads import logs as log_reads
from controlplane.reads import nodes as nodes_reads
from controlplane.reads import runs as run_reads
from controlplane.reads import steps as step_reads
from controlplane.reads import triggers as trigger_reads
from controlplane.stages import (
    admit,
    announce,
    approve,
    audit,
    bulk,
    cancel,
    checkpoint,
    complete,
    deliver,
    embed,
    expire,
    finish,
    follow,
    forget,
    hold,
    issue_key,
    lease,
    local,
    log,
    pause,
    prune,
    redrive,
    register,
    renew,
    replay,
    room,
    schedule,
    send,
    signal,
    step,
    submit,
    suspend,
    trigger,
    trip,
    wait,
    withhold,
)
from tests.integration import plan_rows

# Rows that a statement may look at, for the at most 256 it moves (a janitor's: 1,000) and the 200 hosts or sessions it
# walks; the backlog is 50,000.
ROWS_MAX = 2_500
PARTITION = re.compile(r"_\d{4}_\d{2}_\d{2}|_default")

Node = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A statement with arguments that find something, and the indexes it must be planned through.

    `indexes` None: a table of which only the partitions that hold rows matter.
    """

    statement: str
    arguments: Sequence[object]
    indexes: frozenset[str] | None


def case(statement: str, *arguments: object, by: str | None = None) -> Case:
    return Case(statement=statement, arguments=arguments, indexes=None if by is None else frozenset(by.split()))


async def cases(conn: Connection) -> dict[str, Case]:
    """Every statement that is run for each execution, delivery or checkpoint, or again and again by a daemon."""
    leased = await plan_rows.ids(conn, "e", 31, 33, 34, 35, 36, 37, 38, 39, 40, 81)
    ended = await plan_rows.ids(conn, "o", *range(1, 11))
    asking = await plan_rows.ids(conn, "e", 46, 47, 96)
    sessions = await plan_rows.ids(conn, "s", 31, 33, 5)
    suspended = await plan_rows.ids(conn, "e", 46, 47, 48, 49, 96, 97, 98, 99, 1_046, 1_047)
    sent = await plan_rows.ids(conn, "e", *(50 * n + m for n in range(5) for m in (38, 40)))
    called = await plan_rows.ids(conn, "c", 38, 39, 40)
    closed = [*sessions, *await plan_rows.ids(conn, "r", *range(1_000))]
    deliveries = await plan_rows.ids(conn, "d", 15, 65, 115)
    due, claims = (0, "", 0, ["h0003"], 4, 64, 60.0), "deliveries_due deliveries_pkey breakers_pkey webhooks_pkey"
    target = ["n.echo", "n.nothing"]
    claiming = (0, 1, target, 16, sessions[0], True, b"{}", True, "n")
    work = "queue_ready queue_pkey sessions_pkey pauses_pkey"
    hosts = ["h0000", "h0001", "h0002", "h0003", "h0004"]
    answers = (["delivered"] * 3, [200] * 3, [1] * 3, [None] * 3, [b""] * 3)
    settled = (0, deliveries, [0] * 3, ["delivered"] * 3, [0.0] * 3, *answers, ["delivery.delivered"] * 3, [b"{}"] * 3)
    settles = "deliveries_pkey breakers_pkey executions_pkey"
    theirs = await plan_rows.ids(conn, "o", 15, 65, 115)
    settled += (hosts[1:4], [1] * 3, theirs, *span(theirs))
    schedules = await plan_rows.ids(conn, "k", 1, 31, 81, 100, 101, 131, 181, 200, 201, 231)
    let_in = await plan_rows.ids(conn, "a", 1, 2, 3, 4)
    new = await plan_rows.ids(conn, "x", *range(10))
    door, *_ = await plan_rows.ids(conn, "t", 5)
    told = await plan_rows.ids(conn, "g", 2, 12, 7)
    cursor = tuple(await conn.fetchrow("select xid::text, seq from announced") or ("1", 1))
    first, last = windows.BEFORE_ALL, windows.AFTER_ALL
    page, now = (0, first, last, 1_000, 1), "2100-01-01"
    nothing, none = (None, None), (None,) * 4
    going_on = await plan_rows.ids(conn, "b", 100)
    blocked = await plan_rows.ids(conn, "b", *range(1, 7), *range(11, 15))

    def all_(value: object) -> list[object]:
        return [value] * len(leased)

    keys = (all_(1), all_("run"), [f"run-{n}" for n in range(1, 11)], [f"k{n}" for n in range(1, 11)])
    asked = (0, 1, "run-5", "n.echo", replay.AFTER_ALL, leased[:2], "run-6", leased[2])
    ending = (0, leased, all_(1), all_("failed"), *(all_(None) for _ in range(5)), all_(1), all_(0))
    ending += (*(all_(None) for _ in range(3)), all_("run-1"), all_("n.echo"), all_("execution.failed"), all_(None))
    ends = "queue_pkey approvals_pending approvals_pkey steps_open"
    owed = (new, leased, all_(1), all_("execution.failed"), all_("h"), all_("https://h"), all_(b"{}"), all_(3))
    return {
        "submit.INSERT": case(
            submit.INSERT,
            *(0, new, [1], all_("run"), [], [], [], ["n.echo"], ["reasoner"], all_(b"{}"), [], [], [], [0], [0]),
            *([5.0], [2.0], [60.0], [], [0], [], [], [], [0.0], [], [0.0], [], [], [], [], [], ["cancel"]),
            *([], [], [], [False], [], *([] for _ in range(9))),
            *([sessions[0]] * len(new), sessions[:1], ["n"], [b"{}"]),
            by="sessions_pkey pauses_pkey",
        ),
        "submit.READ_KEYS": case(submit.READ_KEYS, 0, all_(1), all_(""), keys[3], by="idempotency_keys_pkey"),
        "submit.READ_ACCEPTED": case(submit.READ_ACCEPTED, 0, leased, *span(leased)),
        "lease.OPEN_SESSIONS": case(lease.OPEN_SESSIONS, 0, [*sessions, *called], by="sessions_pkey pauses_pkey"),
        "lease.CLAIM": case(lease.CLAIM, *claiming, [], [], [], by=work),
        "lease.CLAIM, from places on": case(lease.CLAIM, *claiming, target[:1], [0], ["2000-01-01"], by=work),
        "lease.READ_ASKED": case(lease.READ_ASKED, 0, leased, *span(leased)),
        "renew.STILL_HELD": case(renew.STILL_HELD, 0, leased, sessions[0], by="queue_pkey"),
        "renew.KEEP": case(renew.KEEP, 0, sessions, by="sessions_pkey queue_session"),
        "renew.HOLDING": case(renew.HOLDING, 0, sessions, by="queue_session"),
        "hold.SHARE": case(hold.SHARE, 0, leased, by="queue_pkey"),
        "hold.TAKE": case(hold.TAKE, 0, leased, by="queue_pkey"),
        "hold.LOCK": case(hold.LOCK, 0, leased, by="queue_pkey"),
        "log.ADVANCE": case(log.ADVANCE, 0, leased, all_(1), all_(b"{}"), by="queue_pkey"),
        "checkpoint.WRITE": case(
            checkpoint.WRITE,
            0,
            leased,
            all_(1),
            *keys,
            all_(b"1"),
            all_(None),
            all_(0),
            all_(None),
            leased,
            all_(1),
            *(all_(None) for _ in range(3)),
            2_048,
            *([1], [0], [b"1"]),
            65_536,
            by="queue_pkey memory_pkey",
        ),
        "checkpoint.LOCK": case(checkpoint.LOCK, 0, *keys, 8_192, by="memory_pkey"),
        "checkpoint.STORE": case(
            checkpoint.STORE, 0, *keys, all_(b"1"), all_(None), all_(0), all_(2), leased, all_(1), by=""
        ),
        "checkpoint.GROW": case(
            checkpoint.GROW, 0, *keys, all_(2), all_(2), all_(2), leased, all_(1), by="memory_pkey"
        ),
        "checkpoint.REMOVE": case(checkpoint.REMOVE, 0, *keys, by="memory_pkey"),
        "checkpoint.READ_ITEMS": case(checkpoint.READ_ITEMS, 0, 1, "run", "run-1", "k1", 0, 1, by="memory_items_pkey"),
        "checkpoint.DROP_ITEMS": case(checkpoint.DROP_ITEMS, 0, *keys, by="memory_items_pkey"),
        "checkpoint.TELL": case(checkpoint.TELL, 0, *keys, all_("set"), *([all_(b"1")] * 2), *([all_("x")] * 3), by=""),
        "hold.CLEAR_CRASHES": case(hold.CLEAR_CRASHES, 0, leased, by="queue_pkey"),
        "hold.HEAR": case(hold.HEAR, 0, leased, by="queue_pkey"),
        "embed.LOCK": case(embed.LOCK, 0, *keys, by="memory_vectors_pkey"),
        "embed.STORE": case(
            embed.STORE, 0, *keys, all_(1.0), all_(b"{}"), all_(1.0), list(range(1, 11)), list(range(1, 11)), by=""
        ),
        "embed.REMOVE": case(embed.REMOVE, 0, *keys, by="memory_vectors_pkey"),
        "embed.CLEAR": case(embed.CLEAR, 0, 1, "run", "run-1", "k1", 1_000, by="memory_vectors_pkey"),
        "complete.RETRY": case(
            complete.RETRY, 0, leased, all_(1), all_(5.0), all_(1), all_("retrying"), by="queue_pkey"
        ),
        "complete.READ_POLICIES": case(complete.READ_POLICIES, 0, leased, *span(leased)),
        "complete.READ_OUTCOMES": case(complete.READ_OUTCOMES, 0, ended, *span(ended)),
        "complete.READ_RETRIED": case(complete.READ_RETRIED, 0, ended, all_(1)),
        "cancel.FLAG": case(cancel.FLAG, 0, leased, "enough", by="queue_pkey"),
        "cancel.READ_FINISHED": case(cancel.READ_FINISHED, 0, ended, *span(ended)),
        "finish.END": case(finish.END, *ending, *([] for _ in range(8)), [], None, by=ends),
        "finish.END, told": case(finish.END, *ending, *owed, [], None, by=ends),
        "finish.END, of what was seen": case(finish.END, *ending, *owed, all_(3), now, by=ends),
        "finish.LOOK": case(finish.LOOK, 0, leased, *span(leased)),
        "finish.READ_ANNOUNCED": case(finish.READ_ANNOUNCED, 0, leased, *span(leased)),
        "expire.HOLDERS": case(expire.HOLDERS, 0, by="queue_session"),
        "expire.CLOSED": case(expire.CLOSED, 0, by="sessions_closed"),
        "expire.ORPHANED": case(expire.ORPHANED, 0, sessions, 256, by="queue_session"),
        "expire.ORPHANED, of many closed": case(expire.ORPHANED, 0, closed, 256, by="queue_session"),
        "expire.LEASED_LONG": case(expire.LEASED_LONG, 0, sessions[:1], 20.0, by="queue_session"),
        "expire.UNNAMED": case(expire.UNNAMED, 0, leased, [1] * len(leased), sessions[0], 20.0, by="queue_pkey"),
        "expire.RELEASE": case(expire.RELEASE, 0, leased, all_(1), all_(1), "lease_expired", 0.0, by="queue_pkey"),
        "expire.OVERDUE": case(expire.OVERDUE, 0, 256, by="queue_deadline"),
        "expire.EXCUSED": case(expire.EXCUSED, 0, leased),
        "expire.EXCUSE": case(expire.EXCUSE, 0, leased, by="queue_pkey"),
        "follow.TAKE": case(follow.TAKE, 0, by="ended_parents_pkey"),
        "follow.CHILDREN": case(follow.CHILDREN, 0, leased[0], 256, by="queue_parent"),
        "follow.PUT_BACK": case(follow.PUT_BACK, 0, "2000-01-01", ended[0], by="ended_parents_pkey"),
        "follow.DONE": case(follow.DONE, 0, "2000-01-01", ended[0], by="ended_parents_pkey"),
        "finish.LEAVE_CHILDREN": case(finish.LEAVE_CHILDREN, 0, leased, all_(1), all_("failed"), by="queue_parent"),
        "expire.UNHEEDED": case(expire.UNHEEDED, 0, 10.0, 256, by="queue_cancel"),
        "expire.PROMOTE": case(expire.PROMOTE, 0, 256, by="queue_delayed queue_pkey"),
        "deliver.CLAIM_DUE": case(deliver.CLAIM_DUE, *due, True, None, None, by=claims),
        "deliver.CLAIM_DUE, none that fails": case(deliver.CLAIM_DUE, *due, False, None, None, by=claims),
        "deliver.CLAIM_DUE, by name": case(deliver.CLAIM_DUE, *due, True, hosts, [1, 1, 1, 2, 1], by=claims),
        "deliver.READ_ANSWERED": case(deliver.READ_ANSWERED, 0, 86_400.0 * 2, 1_000, by="deliveries_settled"),
        "deliver.GIVE_UP": case(deliver.GIVE_UP, 0, 86_400.0, 256, by="breakers_opened deliveries_due deliveries_pkey"),
        "trip.END_WINDOW": case(trip.END_WINDOW, 0, "h0005", 1, by="breakers_pkey"),
        "trip.BEGIN": case(trip.BEGIN, 0, hosts, [1] * 5, by=""),
        "trip.LOCK": case(trip.LOCK, 0, hosts, [1] * 5, by="breakers_pkey"),
        "trip.WRITE": case(trip.WRITE, 0, hosts, [1] * 5, [6] * 5, [2] * 5, [5.0] * 5, [0.0] * 5, by="breakers_pkey"),
        "prune.DROP_BREAKERS": case(prune.DROP_BREAKERS, 0, 86_400.0, 1_000),
        "deliver.SETTLE": case(deliver.SETTLE, *settled, False, by=settles),
        "deliver.SETTLE, of hosts that do well": case(deliver.SETTLE, *settled, True, by=settles),
        "deliver.RECLAIM": case(deliver.RECLAIM, 0, 256, 20, by="deliveries_leased deliveries_pkey"),
        "deliver.READ_HELD": case(deliver.READ_HELD, 0, leased, by="queue_pkey"),
        "approve.FIND_ASKED": case(approve.FIND_ASKED, 0, asking[0], "r-46", by="approvals_pkey"),
        "approve.FIND": case(approve.FIND, 0, asking[0], 1, None, by="approvals_pkey"),
        "approve.OVERDUE": case(approve.OVERDUE, 0, 64, by="approvals_expiry queue_pkey"),
        "approve.EXPIRE": case(approve.EXPIRE, 0, asking, by="approvals_pending"),
        "approvals.OF_REQUEST": case(approvals.OF_REQUEST, 0, [1, 2], "r-46", 100, by="approvals_request"),
        "approvals.LATEST": case(approvals.LATEST, 0, asking[0], 1, by="approvals_pkey"),
        "deliver.READ_ATTEMPTS": case(deliver.READ_ATTEMPTS, 0, deliveries, [1] * 3),
        "deliver.READ_RUNS": case(deliver.READ_RUNS, 0, ended, *span(ended)),
        "replay.ANCESTORS": case(replay.ANCESTORS, 0, leased[0], 1_000),
        "replay.MATCH": case(replay.MATCH, *asked, list(range(10)), all_(b"{}"), all_(None), all_(1)),
        "replay.READ_CANDIDATES": case(replay.READ_CANDIDATES, *asked, 2_000, 4_194_304),
        "replay.READ_RESULTS": case(replay.READ_RESULTS, 0, ended, *span(ended)),
        "replay.READ_SOURCES": case(replay.READ_SOURCES, 0, ended, *span(ended)),
        "lease.HOLD_CALLED": case(lease.HOLD_CALLED, 0, called, by="sessions_pkey"),
        "lease.COUNT_HELD": case(lease.COUNT_HELD, 0, called[2], by="queue_session queue_parent"),
        "send.ACCEPT": case(send.ACCEPT, 0, sent, all_(1), by="queue_pkey"),
        "send.PROLONG": case(send.PROLONG, 0, sent, all_(1), by="queue_pkey"),
        "send.WITHDRAW": case(send.WITHDRAW, 0, sent[0], 1, by="queue_pkey"),
        "send.NOTICE_SIGNS": case(send.NOTICE_SIGNS, 0, 10.0, 256),
        "send.UNANSWERED": case(send.UNANSWERED, 0, 10.0, 256, by="queue_unaccepted"),
        "send.OVERRUN": case(send.OVERRUN, 0, 7_200.0, 256, by="queue_accepted"),
        "send.HELD": case(send.HELD, 0, called[0], by="queue_session"),
        "send.CALLED": case(send.CALLED, 0, by="sessions_called"),
        "send.CANCELLING": case(send.CANCELLING, 0, 256, by="queue_cancel"),
        "send.RENEW_SERVERLESS": case(send.RENEW_SERVERLESS, 0, by="sessions_called sessions_pkey"),
        "expire.SENT": case(expire.SENT, 0, sent, by="queue_pkey"),
        "expire.CLOSE_REFUSED": case(expire.CLOSE_REFUSED, 0, called[0], 5.0, 35.0, by="sessions_pkey nodes_pkey"),
        "register.PROCESSES_AT": case(register.PROCESSES_AT, 0, 1, "p8", "http://p8", by="sessions_process"),
        "register.DRAIN_ONLY": case(register.DRAIN_ONLY, 0, 1, "p8", 35.0, by="sessions_process sessions_pkey"),
        "register.MOVED": case(register.MOVED, 0, 1, "p8", "http://p9", by="sessions_process sessions_pkey"),
        "register.STAY": case(register.STAY, 0, called[0], 35.0, by="sessions_pkey nodes_pkey"),
        "room.SESSIONS": case(room.SESSIONS, 0, 1, 1_000, "p8", by="sessions_node"),
        "room.NODES": case(room.NODES, 0, 1, 20_000, by="nodes_pkey"),
        "room.SCHEDULES": case(room.SCHEDULES, 0, 1, 1_000),
        "room.TRIGGERS": case(room.TRIGGERS, 0, 1, 1_000),
        "wait.BEGIN": case(wait.BEGIN, 0, sent[0], 1, "approval", by="queue_pkey"),
        "wait.RESUME": case(wait.RESUME, 0, sent[0], 1, "approval", None, by="queue_pkey"),
        "pause.HOLD_BACK": case(pause.HOLD_BACK, 0, leased[0], by="queue_pkey"),
        "pause.FLAG": case(pause.FLAG, 0, leased[0], by="queue_pkey"),
        "pause.LET_GO": case(pause.LET_GO, 0, leased[0], by="queue_pkey"),
        "pause.UNFLAG": case(pause.UNFLAG, 0, leased[0], by="queue_pkey"),
        "pause.READ_FINISHED": case(pause.READ_FINISHED, 0, ended[0]),
        "local.KEEP": case(
            local.KEEP,
            0,
            leased,
            [f"l{n}" for n in range(10)],
            all_(1),
            all_(None),
            *([all_("x")] * 2),
            all_(None),
            *([all_(b"1")] * 3),
            all_(1),
            by="",
        ),
        "runs.PAGE": case(run_reads.PAGE, 0, 1, last, "n.echo", 51, 200),
        "runs.COUNTS": case(run_reads.COUNTS, 0, 1, ["run-31", "run-33"], 1_000),
        "runs.FIRSTS": case(run_reads.FIRSTS, 0, 1, ["run-31", "run-33"]),
        "runs.MEMBERS": case(run_reads.MEMBERS, 0, 1, "run-31", None, 51),
        "nodes.PROCESSES": case(nodes_reads.PROCESSES, 0, 1, "p8", by="sessions_process"),
        "local.PAGE": case(local_reads.PAGE, 0, leased[0], 1, 100, by="local_calls_pkey"),
        "local.OWNER": case(local_reads.OWNER, 0, 1, "l38", by="local_calls_local queue_pkey"),
        "events.STREAM": case(events.STREAM, 0, "5", 0, 500),
        "changes.STREAM": case(changes.STREAM, 0, "5", 0, 500, by="memory_changes_pkey"),
        "changes.LATEST": case(changes.LATEST, 0, 1, None, "run", None, ["k%"], 100, 2_000, by="memory_changes_at"),
        "explain.READ": case(explain.READ, 0, leased[0], 1),
        "explain.HOLDER": case(explain.HOLDER, 0, sessions[0], by="sessions_pkey"),
        "explain.NODE": case(explain.NODE, 0, 1, "p8", by="nodes_pkey"),
        "explain.PROCESSES": case(explain.PROCESSES, 0, 1, "n", 50, by="sessions_node"),
        "explain.CLOSED_LATELY": case(explain.CLOSED_LATELY, 0, 1, "p8", 1_000, by="sessions_pkey"),
        "explain.HELD": case(
            explain.HELD, 0, [sessions[0], *called], [False, *([True] * 3)], 1_000, 10, by="queue_session queue_parent"
        ),
        "explain.AHEAD": case(explain.AHEAD, 0, 1, "n.echo", 1, "2000-01-01", leased[0], 1_001, by="queue_ready"),
        "explain.FINISHES": case(explain.FINISHES, 0, 1, "n.echo", 1_000, 900.0),
        "explain.LAST_OF_TYPE": case(explain.LAST_OF_TYPE, 0, ended[0], 1, "execution.paused"),
        "explain.LAST_LINE": case(explain.LAST_LINE, 0, leased[0], 1),
        "explain.CHILDREN": case(explain.CHILDREN, 0, leased[0], 1, 1_001, 10, by="queue_parent"),
        "attempts.STARTED": case(attempts.STARTED, 0, ended[0], 1, 0, 51),
        "attempts.ENDED": case(attempts.ENDED, 0, ended[0], 1, [1, 2], 153),
        "attempts.LAST_PROGRESS": case(attempts.LAST_PROGRESS, 0, ended[0], 1),
        "attempts.OUTCOME": case(attempts.OUTCOME, 0, ended[0]),
        "jobs.HEADS": case(jobs.HEADS, 0, ended, 1, 1_024, *span(ended)),
        "jobs.SESSION": case(jobs.SESSION, 0, ended[0], 1),
        "jobs.LAST_RETRY": case(jobs.LAST_RETRY, 0, ended[0], 1),
        "prune.DROP_CHANGES": case(prune.DROP_CHANGES, 0, 3_600.0, 1_000, by="memory_changes_at"),
        "forget.TAKE_WALK": case(forget.TAKE_WALK, 0, "logs", by="retention_walks_pkey"),
        "forget.NEXT_NAMESPACE": case(forget.NEXT_NAMESPACE, 0, 0),
        "forget.WALK": case(forget.WALK, 0, 1, "succeeded", forget.START, 86_400.0, 500),
        "forget.RUNS_OF": case(forget.RUNS_OF, 0, ended, *span(ended)),
        "forget.MEMBERS": case(forget.MEMBERS, 0, 1, keys[2]),
        "forget.ENDS": case(forget.ENDS, 0, ended, ["succeeded"], [0.0], *span(ended)),
        "forget.TOLD_LATELY": case(forget.TOLD_LATELY, 0, ended, 0.0, by="one_delivery_per_webhook_and_event"),
        "forget.KEYED": case(forget.KEYED, 0, leased, by="idempotency_keys_execution"),
        "forget.SOURCES": case(forget.SOURCES, 0, ended),
        "forget.PARENTS": case(forget.PARENTS, 0, ended),
        "forget.REPLAYED": case(forget.REPLAYED, 0, 1, keys[2]),
        "forget.REMEMBERS": case(forget.REMEMBERS, 0, 1, keys[2], 0.0, by="memory_pkey"),
        "forget.LOCK_NEWEST": case(forget.LOCK_NEWEST, 0, 1, keys[2], 1_000),
        "forget.LOCK_DELIVERIES": case(
            forget.LOCK_DELIVERIES, 0, ended, by="one_delivery_per_webhook_and_event deliveries_pkey"
        ),
        "forget.RUNS_LEFT": case(forget.RUNS_LEFT, 0, 1, keys[2]),
        "forget.DROP_OUTCOMES": case(forget.DROP_OUTCOMES, 0, ended, *span(ended)),
        "forget.DROP_EXECUTIONS": case(forget.DROP_EXECUTIONS, 0, ended, *span(ended)),
        "forget.LAST_EVENT": case(forget.LAST_EVENT, 0, ended, 3),
        "forget.DROP_EVENTS": case(forget.DROP_EVENTS, 0, ended, ended[5], 0),
        "forget.LAST_LOG": case(forget.LAST_LOG, 0, ended, 3),
        "forget.DROP_LOGS": case(forget.DROP_LOGS, 0, ended, ended[5], 0),
        "forget.DROP_DELIVERIES_OF": case(forget.DROP_DELIVERIES_OF, 0, ended, by="one_delivery_per_webhook_and_event"),
        "forget.DROP_ATTEMPTS": case(forget.DROP_ATTEMPTS, 0, deliveries),
        "forget.DROP_WEBHOOKS": case(forget.DROP_WEBHOOKS, 0, ended, by="webhooks_pkey"),
        "forget.DROP_APPROVALS": case(forget.DROP_APPROVALS, 0, ended, by="approvals_pkey"),
        "forget.DROP_LOCAL_CALLS": case(forget.DROP_LOCAL_CALLS, 0, ended, by="local_calls_pkey"),
        "forget.DROP_MEMORY": case(forget.DROP_MEMORY, 0, 1, keys[2], 0.0, by="memory_pkey"),
        "forget.DROP_ITEMS": case(forget.DROP_ITEMS, 0, 1, keys[2], keys[3], by="memory_items_pkey"),
        "forget.DROP_VECTORS": case(forget.DROP_VECTORS, 0, 1, keys[2], 0.0, by="memory_vectors_pkey"),
        "forget.WITH_EVENTS": case(forget.WITH_EVENTS, 0, forget.START, 86_400.0, 500),
        "forget.WITH_LOGS": case(forget.WITH_LOGS, 0, forget.START, 86_400.0, 500),
        "forget.OVER": case(forget.OVER, 0, ended, 0.0, *span(ended)),
        "forget.DROP_SETTLED": case(
            forget.DROP_SETTLED, 0, "delivered", 3_600.0, 1_000, by="deliveries_settled deliveries_pkey"
        ),
        "hold.KEEP": case(hold.KEEP, 0, ended, *span(ended)),
        "triggers.READ": case(trigger_reads.READ, 0, 1, "t5", by="triggers_bucket_namespace_name_key"),
        "triggers.EVENTS": case(trigger_reads.EVENTS, 0, door, None, None, 51, by="trigger_events_newest"),
        "trigger.READ_SAME": case(trigger.READ_SAME, 0, door, "k4", by="trigger_events_bucket_trigger_id_key_key"),
        "announce.NEWS": case(announce.NEWS, 0, *cursor, "9000000"),
        "announce.PAGE": case(announce.PAGE, 0, *cursor, "9000000", ["execution.completed"], 200, 65_536),
        "announce.HEARD": case(announce.HEARD, 0, leased, by="listeners_pkey webhooks_pkey"),
        "announce.READ_ENDS": case(announce.READ_ENDS, 0, ended, 262_144, *span(ended)),
        "announce.READ_DEAD": case(announce.READ_DEAD, 0, deliveries, by="deliveries_pkey"),
        "announce.READ_ASKED": case(announce.READ_ASKED, 0, suspended, by="approvals_pkey"),
        "announce.PARKED": case(announce.PARKED, 0, 200, by="deliveries_parked"),
        "announce.RELEASE": case(announce.RELEASE, 0, told[:2], 1_000, by="deliveries_parked deliveries_pkey"),
        "announce.DISMISS": case(announce.DISMISS, 0, leased, by="listeners_pkey"),
        "deliver.PARK": case(deliver.PARK, 0, deliveries, [1] * 3, by="deliveries_pkey"),
        "forget.UNANNOUNCED": case(forget.UNANNOUNCED, 0, ended),
        "forget.DROP_LISTENERS": case(forget.DROP_LISTENERS, 0, leased, by="listeners_pkey"),
        "schedule.DUE_TARGETS": case(schedule.DUE_TARGETS, 0, 64, by="schedules_due"),
        "schedule.LOCK_DUE": case(schedule.LOCK_DUE, 0, 64, by="schedules_due"),
        "schedule.WAITING_TARGETS": case(
            schedule.WAITING_TARGETS, 0, 64, by="schedules_waiting schedule_ticks_open queue_pkey"
        ),
        "schedule.LOCK_WAITING": case(
            schedule.LOCK_WAITING, 0, 64, by="schedules_waiting schedule_ticks_open queue_pkey"
        ),
        "schedule.CLOSE": case(schedule.CLOSE, 0, schedules, by="schedule_ticks_open queue_pkey"),
        "schedule.READ_OPEN": case(schedule.READ_OPEN, 0, schedules, by="schedule_ticks_open"),
        "schedule.TAKE_WAITING": case(schedule.TAKE_WAITING, 0, schedules, new, by="schedule_ticks_waiting"),
        "schedule.MOVE_ON": case(schedule.MOVE_ON, 0, schedules, *([all_(None)] * 3), all_(0), by="schedules_pkey"),
        "schedule.COUNT_DOWN": case(schedule.COUNT_DOWN, 0, schedules, schedules[::4], by="schedules_pkey"),
        "schedule.LAST_BY_HAND": case(schedule.LAST_BY_HAND, 0, schedules[0], by="schedule_ticks_pkey"),
        "pauses.PAGE": case(pauses.PAGE, 0, 1, "h1", "h1", 51, by="pauses_pkey"),
        "pauses.ABOUT": case(pauses.ABOUT, 0, 1, "h1", "h1.r1", by="pauses_pkey"),
        "pauses.HELD_BACK": case(
            pauses.HELD_BACK,
            0,
            all_(1),
            [f"h{n}" for n in range(10)],
            [f"h{n}.r1" for n in range(10)],
            by="pauses_pkey",
        ),
        "pauses.QUEUED": case(pauses.QUEUED, 0, 1, target, 1_001, by="queue_ready"),
        "pauses.PROCESSES": case(pauses.PROCESSES, 0, 1, "p8", 1_000, by="sessions_node"),
        "pauses.RUNNING": case(pauses.RUNNING, 0, [sessions[0], called[0]], None, 1_000, by="queue_session"),
        "withhold.DRAIN": case(withhold.DRAIN, 0, 1, "p8", "ops", "why", by="sessions_node sessions_pkey"),
        "figures.STANDING": case(figures.STANDING, 0, 1, 2_000),
        "figures.COUNTED": case(figures.COUNTED, 0, 1, by="census_pkey"),
        "figures.UNHAPPY": case(figures.UNHAPPY, 0, 1, ["failed", "timeout"], now, first, last, 2_000),
        "figures.DEAD": case(figures.DEAD, 0, 1, now, 2_000, by="deliveries_settled"),
        "lately.READ": case(
            lately_reads.READ, 0, 1, ["failed", "timeout", "cancelled", "succeeded"], 24, 144, 20, None
        ),
        "keys.KNOWN": case(keys_reads.KNOWN, 0, let_in[0], by="api_keys_pkey"),
        "keys.PAGE": case(keys_reads.PAGE, 0, 1, None, 51, by="api_keys_namespace"),
        "keys.WHOSE": case(keys_reads.WHOSE, 0, leased, *span(leased)),
        "audit.APPEND": case(
            audit.APPEND, 0, 1, new[0], "key", *none, None, None, "a.b", "o", "i", *nothing, "v", by="audit_heads_pkey"
        ),
        "audit.LOCK_OLD": case(audit.LOCK_OLD, 0, 30 * 86_400, 64, by="audit_heads_pkey audit_pkey"),
        "audit.MOVE_ANCHOR": case(audit.MOVE_ANCHOR, 0, 1, 0, 30 * 86_400, 1_000, by="audit_heads_pkey audit_pkey"),
        "audit.FORGET": case(audit.FORGET, 0, 1, 0, by="audit_pkey"),
        "audit.HEAD": case(audit_reads.HEAD, 0, 1, by="audit_heads_pkey"),
        "audit.BACKWARD": case(audit_reads.BACKWARD, 0, 1, 3_001, 1_001, None, "limit", *none[:3], 50, by="audit_pkey"),
        "audit.FORWARD": case(audit_reads.FORWARD, 0, 1, 1_000, 3_000, "k", *none, 50, by="audit_pkey"),
        "audit.FOLLOWING": case(audit_reads.FOLLOWING, 0, 1, 3_000, 500, by="audit_pkey"),
        "audit.HASH": case(audit_reads.HASH, 0, 1, 3_000, by="audit_pkey"),
        "issue_key.TOUCH": case(issue_key.TOUCH, 0, let_in, 30, by="api_keys_pkey"),
        "bulks.FIND_UNFINISHED": case(
            bulks.FIND_UNFINISHED, *page, ["ready", "leased"], "cancel", now, "n.echo", *none, *nothing
        ),
        "bulks.FIND_FINISHED": case(
            bulks.FIND_FINISHED, *page, ["failed", "succeeded"], now, "n.echo", None, *none, None, *nothing
        ),
        "bulks.FIND_FINISHED_OF_RUN": case(
            bulks.FIND_FINISHED_OF_RUN, *page, ["succeeded"], now, None, None, *none, None, *nothing, "run-5"
        ),
        "bulks.FIND_DEAD": case(bulks.FIND_DEAD, *page, now, "n.echo", None, None, *none, None, *nothing, *nothing),
        "bulks.FIND_SETTLED": case(
            bulks.FIND_SETTLED,
            *page,
            now,
            "n.echo",
            *nothing,
            *none,
            *(None, *nothing, *nothing, ["delivered", "dead"]),
        ),
        "bulks.READ_NAMED": case(bulks.READ_NAMED, 0, leased, 1, *span(leased)),
        "bulks.READ_NAMED_DELIVERIES": case(bulks.READ_NAMED_DELIVERIES, 0, deliveries, 1, by="deliveries_pkey"),
        "bulks.PAGE": case(bulks.PAGE, 0, 1, None, 51, by="bulks_pkey"),
        "executions.LIST_ACCEPTED": case(
            executions.LIST_ACCEPTED, 0, 1, last, "n.none", None, 51, first, *nothing, *nothing, 1_000
        ),
        "executions.READ": case(executions.READ, 0, [*leased, *ended], 1, *span([*leased, *ended])),
        "executions.LIST_RUN": case(
            executions.LIST_RUN,
            *(0, 1, last, None, None, 51, first, *nothing, *nothing, None, *nothing, "run-31", None),
        ),
        "executions.LIST_QUEUED": case(
            executions.LIST_QUEUED, 0, 1, last, "n.none", None, 51, first, *nothing, *nothing, ["ready"], 1_000
        ),
        "executions.LIST_QUEUED, of a session": case(
            executions.LIST_QUEUED, 0, 1, last, None, "n.", 51, first, "s", *nothing, now, ["ready"], 1_000
        ),
        "executions.LIST_HELD": case(
            executions.LIST_HELD, 0, 1, last, "n.none", None, 51, first, *nothing, *nothing, ["leased"], 1_000
        ),
        "events.TRACE": case(events.TRACE, 0, ended[0], 1, 0, 201),
        "events.TRACE_BEFORE": case(events.TRACE_BEFORE, 0, ended[0], 1, 2**62, 201),
        "logs.LIST_BEFORE": case(log_reads.LIST_BEFORE, 0, ended[0], 1, 2**62, None, 501),
        "logs.LIST": case(log_reads.LIST, 0, ended[0], 1, 0, None, 501),
        "executions.LIST_FINISHED": case(
            executions.LIST_FINISHED,
            *(0, 1, last, "n.none", None, 51, first, *nothing, *nothing, "Boom", *nothing),
            ["failed", "succeeded"],
            1_000,
        ),
        "deliveries.HELD": case(deliveries_reads.HELD, 0, deliveries, by="deliveries_pkey breakers_pkey"),
        "deliveries.LIST_DEAD": case(deliveries_reads.LIST_DEAD, 0, 1, None, *none, *nothing, None, *none, 51),
        "deliveries.LIST_ANY": case(
            deliveries_reads.LIST_ANY, 0, 1, None, *none, *nothing, None, *none, 51, 500, ["delivered"]
        ),
        "deliveries.READ": case(deliveries_reads.READ, 0, deliveries[0], 1),
        "feed.NUMBERED": case(feed.NUMBERED, 0, 1, "3", deliveries[0], ["delivered"], *none, None, 51, 500),
        "feed.UNNUMBERED": case(feed.UNNUMBERED, 0, 1, deliveries[0], None, None, *none, None, 51, 500),
        "feed.FIRST_NUMBERED": case(feed.FIRST_NUMBERED, 0, 1, by="deliveries_feed"),
        "feed.BODIES": case(feed.BODIES, 0, deliveries, by="deliveries_pkey"),
        "feed.TRIES": case(feed.TRIES, 0, deliveries),
        "bulk.NEXT": case(bulk.NEXT, 0, by="bulks_running"),
        "bulk.MOVE_ON": case(bulk.MOVE_ON, 0, going_on[0], None, 1, 0, 0, None, True, by="bulks_pkey"),
        "bulk.STOP": case(bulk.STOP, 0, going_on[0], 1, by="bulks_pkey"),
        "bulk.READ_RETRIED": case(bulk.READ_RETRIED, 0, [f"run-{n}" for n in range(100)], leased),
        "redrive.REDRIVE": case(redrive.REDRIVE, 0, deliveries, 1, now, ["dead"]),
        "redrive.DUE_AT": case(redrive.DUE_AT, 0, ["h0000.dead", "h0003"], 40, 1, by="deliveries_due"),
        "prune.DROP_BULKS": case(prune.DROP_BULKS, 0, 86_400.0 * 30, 1_000, by="bulks_ended bulks_pkey"),
        "suspend.READ_AWAITED": case(suspend.READ_AWAITED, 0, suspended, all_("go"), by="steps_pkey"),
        "suspend.MARK": case(suspend.MARK, 0, suspended, all_("go"), by="steps_open"),
        "suspend.PARK": case(suspend.PARK, 0, leased, all_(1), all_("all"), all_("sleeping"), by="queue_pkey"),
        "suspend.FULFIL": case(suspend.FULFIL, 0, suspended[0], "go", b"1", False, by="steps_open"),
        "suspend.DUE": case(suspend.DUE, 0, 256, by="steps_due queue_pkey"),
        "suspend.FULFIL_DUE": case(suspend.FULFIL_DUE, 0, suspended[2:], by="steps_open"),
        "suspend.NEWS": case(suspend.NEWS, 0, 256, by="steps_news"),
        "suspend.TAKE": case(suspend.TAKE, 0, suspended, by="queue_pkey"),
        "suspend.HEED": case(suspend.HEED, 0, suspended, by="steps_news"),
        "suspend.WAKE": case(suspend.WAKE, 0, [suspended[1]], by="queue_pkey steps_open steps_awaited"),
        "suspend.LOCK_AWAITED": case(suspend.LOCK_AWAITED, 0, suspended[2:], by="steps_open"),
        "suspend.CALM": case(suspend.CALM, 0, suspended[2:], by="steps_open"),
        "suspend.ENDING": case(suspend.ENDING, 0, suspended[2:], leased, by="steps_open steps_child"),
        "suspend.LOCK_STEPS": case(suspend.LOCK_STEPS, 0, suspended, all_("go"), by="steps_pkey"),
        "suspend.CLOSE": case(suspend.CLOSE, 0, suspended[2:], by="steps_open"),
        "suspend.OPEN": case(suspend.OPEN, 0, suspended[0], "", 500, by="steps_open"),
        "suspend.READ_ENDS": case(suspend.READ_ENDS, 0, leased, *span(leased)),
        "suspend.READ_DECIDED": case(suspend.READ_DECIDED, 0, suspended, by="approvals_pkey"),
        "suspend.END_CALLS": case(suspend.END_CALLS, 0, leased, all_(True), by="steps_child"),
        "signal.READ_KEY": case(signal.READ_KEY, 0, suspended[0], "k", by="signals_key"),
        "signal.COUNT_OPEN": case(signal.COUNT_OPEN, 0, suspended[0], 1_000, by="signals_open"),
        "signal.WAITS_FOR": case(signal.WAITS_FOR, 0, suspended[0], "go", by="steps_open"),
        "signal.TAKE": case(signal.TAKE, 0, suspended[0], "go2", "go", by="signals_open signals_pkey"),
        "step.KEEP": case(
            step.KEEP,
            0,
            leased,
            all_("n"),
            all_(1),
            all_("step"),
            all_(b"1"),
            all_(1),
            *([all_(None)] * 3),
            by="",
        ),
        "step.READ": case(step.READ, 0, suspended, all_("go"), by="steps_pkey"),
        "submit.TAKE_STEPS": case(submit.TAKE_STEPS, 0, leased, all_("n"), all_(1), all_(1), new, by=""),
        "submit.READ_STEPS": case(submit.READ_STEPS, 0, suspended, all_("go"), by="steps_pkey"),
        "lease.COUNT_STEPS": case(lease.COUNT_STEPS, 0, leased, by="steps_pkey"),
        "approve.ASKED_BY": case(approve.ASKED_BY, 0, suspended[0], "r-46", by="steps_open"),
        "approvals.ASKED": case(approvals.ASKED, 0, asking[0], 1, "r-46", by="approvals_pkey"),
        "steps.PAGE": case(step_reads.PAGE, 0, suspended[1], 1, "", 1_000, 8_388_608, by="steps_pkey"),
        "steps.MEASURE_RESULTS": case(step_reads.MEASURE_RESULTS, 0, ended, *span(ended)),
        "steps.READ_RESULTS": case(step_reads.READ_RESULTS, 0, ended, *span(ended)),
        "explain.AWAITED": case(explain.AWAITED, 0, suspended[2], 1, 10_000, 10, by="steps_open"),
        "submit.READY_OF": case(submit.READY_OF, 0, 1, ["n.turn", "n.held0"], ["f0", "f2"], 32, by="queue_turn"),
        "submit.DECLARE": case(submit.DECLARE, 0, all_(1), [f"key:l{n}" for n in range(2, 12)], list(range(10)), by=""),
        "admit.LINES": case(admit.LINES, 0, 1, "", 256, by="queue_blocked"),
        "admit.TOP": case(admit.TOP, 0, 1, "key:main", by="queue_blocked"),
        "admit.TURNS": case(admit.TURNS, 0, 1, "key:main", 2, "", 256, by="queue_blocked"),
        "admit.CANDIDATES": case(admit.CANDIDATES, 0, 1, "key:main", 2, ["", "f2", "f4"], 80, 256, by="queue_blocked"),
        "admit.REFILL": case(
            admit.REFILL, 0, 1, "turn:n.turn", 0, ["f0", "f2"], "n.turn", 32, by="queue_blocked queue_turn queue_pkey"
        ),
        "admit.PEEK": case(admit.PEEK, 0, 1, "key:main", by="limits_pkey"),
        "admit.LOCK": case(admit.LOCK, 0, 1, ["key:l2", "key:l3", "key:main"], by="limits_pkey"),
        "admit.HELD_BY_TARGET": case(
            admit.HELD_BY_TARGET, 0, 1, "n.held0", "n.held0\x01", by="queue_held queue_parent"
        ),
        "admit.HELD_BY_KEY": case(admit.HELD_BY_KEY, 0, 1, "main", by="queue_held_key queue_parent"),
        "admit.LET_IN": case(admit.LET_IN, 0, blocked, "key:main", by="queue_pkey"),
        "admit.MOVE": case(admit.MOVE, 0, blocked, ["node:n"] * len(blocked), "key:main", by="queue_pkey"),
        "admit.SPEND": case(admit.SPEND, 0, 1, "key:main", "f2", [1.0], [2], by="limits_pkey"),
        "admit.ADOPTING": case(admit.ADOPTING, 0, 5.0, 256, by="limits_adopting"),
        "admit.ADOPT": case(
            admit.ADOPT, 0, 1, "reasoner:n.echo", admit.FIRST, "n.echo", "n.echo\x01", 1_000, by="queue_pkey"
        ),
        "admit.ADOPTED": case(admit.ADOPTED, 0, 1, "key:main", None, 0, 0, by="limits_pkey"),
        "limits.KNOWN": case(limits.KNOWN, 0, by="limits_pkey"),
        "limits.PAGE": case(limits.PAGE, 0, 1, "key:l2", 51, by="limits_pkey"),
        "explain.AHEAD_IN_LINE": case(
            explain.AHEAD_IN_LINE, 0, 1, "key:main", 1, "f2", "2100-01-01", blocked[0], 1_001, by="queue_blocked"
        ),
        "explain.TURNS": case(explain.TURNS, 0, 1, "key:main", 2, 1_000, by="queue_blocked"),
        "explain.HOLDERS_BY_KEY": case(explain.HOLDERS_BY_KEY, 0, 1, "main", 1_000, 10, by="queue_held_key"),
        "explain.HOLDERS_BY_TARGET": case(explain.HOLDERS_BY_TARGET, 0, 1, "n.", "n/", 1_000, 10, by="queue_held"),
        "prune.DROP_TICKS": case(prune.DROP_TICKS, 0, 86_400.0 * 30, 1_000),
        "prune.DROP_KEYS": case(prune.DROP_KEYS, 0, 1_000, by="idempotency_keys_expiry idempotency_keys_execution"),
    }


async def test_fresh_statistics(conn: Connection) -> None:
    """Analysed with the whole backlog in it."""
    await plan_rows.prepare(conn)
    await plan_rows.load(conn, 1, plan_rows.ROWS)
    await conn.execute("vacuum analyze")

    assert await faults(conn, run=True) == []


async def test_stale_statistics(conn: Connection) -> None:
    """Analysed when there were 200 rows, all alike; then the backlog came."""
    await plan_rows.prepare(conn)
    await plan_rows.load(conn, 1, plan_rows.SMALL)
    await conn.execute("analyze")
    await plan_rows.load(conn, plan_rows.SMALL + 1, plan_rows.ROWS)

    assert await faults(conn, run=True) == []


async def test_planned_while_empty(conn: Connection) -> None:
    """Planned when the tables had just been vacuumed empty: the plan must do for what comes after."""
    await plan_rows.prepare(conn)
    await conn.execute("vacuum analyze")

    assert await faults(conn, run=False) == []


async def test_a_claim_among_ten_thousand_hosts(conn: Connection) -> None:
    """100,000 deliveries wait at one host and one at each of 10,000 others, half of which are left alone."""
    await plan_rows.prepare(conn)
    await conn.execute(plan_rows.MANY_HOSTS, 100_000, 10_000)
    await conn.execute(plan_rows.BREAKERS, 1, 10_000)
    first = await plan(conn, case(deliver.CLAIM_DUE, 0, "", 0, [], 4, 64, 60.0, True, None, None), run=True)
    quiet = await plan(conn, case(deliver.CLAIM_DUE, 0, "", 0, [], 4, 64, 60.0, False, None, None), run=True)

    assert max(looked_at(node) for node in walk(first)) <= 256
    assert max(looked_at(node) for node in walk(quiet)) <= 256


async def faults(conn: Connection, *, run: bool) -> list[str]:
    """What is wrong with the plans of all cases; with `run`, they are carried out and taken back."""
    for name, value in SESSION_SETTINGS.items():
        await conn.execute(f"set {name} = '{value}'")
    await conn.execute("set plan_cache_mode = force_generic_plan")
    found: list[str] = []
    for name, one in (await cases(conn)).items():
        nodes = list(walk(await plan(conn, one, run=run)))
        found += [f"{name}: {fault}" for fault in judge(one, nodes, run=run)]
    return found


def judge(one: Case, nodes: list[Node], *, run: bool) -> Iterator[str]:
    for node in nodes:
        if node["Node Type"] == "Seq Scan" and (one.indexes is not None or looked_at(node)):
            yield f"reads the whole of {node['Relation Name']}"
    used = {PARTITION.sub("", node["Index Name"]) for node in nodes if "Index Name" in node}
    if one.indexes is not None and used != one.indexes:
        yield f"goes through {sorted(used)}, not {sorted(one.indexes)}"
    if run and (rows := max(looked_at(node) for node in nodes)) > ROWS_MAX:
        yield f"looks at {rows} rows"


def looked_at(node: Node) -> int:
    """How many rows this node took into its hands."""
    thrown_away = sum(node.get(f"Rows Removed by {why}", 0) for why in ("Filter", "Join Filter", "Index Recheck"))
    return int((node.get("Actual Rows", 0) + thrown_away) * node.get("Actual Loops", 0))


async def plan(conn: Connection, one: Case, *, run: bool) -> Node:
    transaction = conn.transaction()
    await transaction.start()
    await conn.execute("prepare planned as " + one.statement)
    arguments = ", ".join(map(literal, one.arguments))
    explain = "explain (analyze, format json)" if run else "explain (format json)"
    text: str = await conn.fetchval(f"{explain} execute planned({arguments})")
    await conn.execute("deallocate planned")
    await transaction.rollback()
    node: Node = json.loads(text)[0]["Plan"]
    return node


def walk(node: Node) -> Iterator[Node]:
    yield node
    for child in node.get("Plans", ()):
        yield from walk(child)


def literal(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, list):
        return "'{" + ",".join(map(element, value)) + "}'"
    return "'" + str(value).replace("'", "''") + "'"


def element(value: object) -> str:
    if value is None:
        return "null"
    return f'"\\\\x{value.hex()}"' if isinstance(value, bytes) else f'"{value}"'


@pytest.mark.parametrize("settings", [{}, SESSION_SETTINGS])
async def test_the_server_plans_so(database: str, settings: Mapping[str, str]) -> None:
    """What the tests above set is what the pool sets; without it an empty table is planned to be read whole."""
    conn: Connection = await asyncpg.connect(database, server_settings=dict(settings))
    await conn.execute("vacuum analyze queue")
    await conn.execute("set plan_cache_mode = force_generic_plan")

    nodes = list(walk(await plan(conn, case(hold.LOCK, 0, []), run=False)))
    await conn.close()

    assert any(node["Node Type"] == "Seq Scan" for node in nodes) == (not settings)
