"""Verify: what must be true after every commit, as queries that find what it is not true of.

Each asks one bucket ($1) and is one statement, so it sees one moment. They lock nothing. Those that are `hot` read what
is unfinished; the others read whole tables: they are for tests, and for a person who wants to be sure. A story may be
forgotten before its execution is, the oldest events first: what is asked of events is asked where the first is there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID

from controlplane.domain.ids import show, show_execution
from controlplane.postgres.pool import Connection

FOUND_MAX = 20
"""Offenders that are named of one invariant."""

IN_ONE_PLACE = """
select e.id
from executions e
left join queue q on q.bucket = $1 and q.id = e.id
left join outcomes o on o.bucket = $1 and o.id = e.id
where e.bucket = $1
  and (q.id is null) = (o.id is null)
"""

STANDS_FOR_ONE_THING = """
select id
from queue
where bucket = $1
  and (
    (state = 'waiting') <> (session_id is not null and waiting_at is not null or waits_until is not null)
      and state <> 'paused'
    or waits_until is not null and session_id is not null
    or (waits_until is null) <> (waits_reason is null)
    or state = 'blocked' and line is null
    or limited and line is null
    or state in ('ready', 'delayed', 'blocked', 'paused') and (sent_at is not null or pause_requested)
  )
"""

ONE_LEASE_PER_ATTEMPT = """
select one.id
from (
  select id, attempt from queue where bucket = $1
  union all
  select id, attempt from outcomes where bucket = $1
) one
join (
  select execution_id, count(*) filter (where type = 'execution.started') as leases,
    count(distinct attempt) filter (where type = 'execution.started') as attempts,
    coalesce(max(attempt) filter (where type = 'execution.started'), 0) as last
  from events
  where bucket = $1
    and type in ('execution.queued', 'execution.started')
  group by execution_id
  having bool_or(type = 'execution.queued')
) s on s.execution_id = one.id
where (one.attempt, one.attempt, one.attempt) <> (s.leases, s.attempts, s.last)
"""

NOT_AHEAD = """
select s.execution_id as id
from steps s
left join queue q on q.bucket = $1 and q.id = s.execution_id
left join outcomes o on o.bucket = $1 and o.id = s.execution_id
where s.bucket = $1
  and s.attempt not between 1 and coalesce(q.attempt, o.attempt, 0)
union all
select w.id
from (
  select writer_execution_id as id, writer_attempt as attempt from memory where bucket = $1
  union all
  select execution_id, attempt from approvals where bucket = $1
  union all
  select execution_id, attempt from logs where bucket = $1
) w
left join queue q on q.bucket = $1 and q.id = w.id
left join outcomes o on o.bucket = $1 and o.id = w.id
where w.attempt > coalesce(q.attempt, o.attempt)
"""

MOVES_AS_IT_MAY = """
select id
from (
  select execution_id as id, type, attempt,
    lag(type) over story as type_before, lag(attempt) over story as attempt_before,
    bool_or(type = 'execution.queued') over (partition by execution_id) as whole
  from events
  where bucket = $1
    and type in (
      'execution.queued', 'execution.started', 'execution.retrying', 'execution.suspended', 'execution.woken',
      'lease.released', 'lease.expired'
    )
  window story as (partition by execution_id order by seq)
) e
where whole
  and not case type
    when 'execution.queued' then type_before is null
    when 'execution.started' then attempt = attempt_before + 1 and type_before in (
      'execution.queued', 'execution.retrying', 'execution.woken', 'lease.released', 'lease.expired'
    )
    when 'execution.woken' then attempt = attempt_before and type_before = 'execution.suspended'
    -- A process that was only busy is heard after its lease, too.
    when 'execution.retrying' then attempt = attempt_before and type_before in ('execution.started', 'lease.expired')
    else attempt = attempt_before and type_before = 'execution.started'
  end
"""

STANDS_WHERE_ITS_STORY_DOES = """
select q.id
from queue q
cross join lateral (
  select type
  from events
  where bucket = $1
    and execution_id = q.id
    and type in (
      'execution.queued', 'execution.started', 'execution.retrying', 'execution.suspended', 'execution.woken',
      'lease.released', 'lease.expired'
    )
  order by seq desc
  limit 1
) last
where q.bucket = $1
  and (
    (last.type = 'execution.started') <> (q.session_id is not null)
    or (last.type = 'execution.suspended') <> (q.waits_until is not null)
  )
"""

# A session of another bucket is not seen here.
LEASED_BY_ITS_NODE = """
select q.id
from queue q
join sessions s on s.bucket = $1 and s.id = q.session_id
where q.bucket = $1
  and (s.namespace <> q.namespace or s.node_id <> split_part(q.target, '.', 1))
"""

RETRIES_ARE_COUNTED = """
select id
from queue
where bucket = $1
  and failures > retries_max
union all
select o.id
from outcomes o
join executions e on e.bucket = $1 and e.id = o.id
where o.bucket = $1
  and o.failures > e.retries_max + 1
"""

# `clock()` is when this transaction began. What is seen was committed since by others, whose clocks are later: none of
# them is later than the moment in which a row is looked at.
NOT_BEFORE_ITS_TIME = """
select id
from queue
where bucket = $1
  and state in ('ready', 'blocked', 'leased')
  and available_at > clock()
  and available_at > clock() + (clock_timestamp() - now())
"""

ENDS_ONCE = """
select coalesce(o.id, t.execution_id) as id
from (select id, status from outcomes where bucket = $1) o
full join (
  select execution_id, count(*) as ends, min(type) as type, min(seq) as seq
  from events
  where bucket = $1
    and type in ('execution.completed', 'execution.failed', 'execution.cancelled', 'execution.timeout')
  group by execution_id
) t on t.execution_id = o.id
where o.id is null
  or t.ends > 1
  or t.ends is null and exists (
    select 1
    from events e
    where e.bucket = $1
      and e.execution_id = o.id
      and e.type = 'execution.queued'
  )
  or t.type <> 'execution.' || case o.status when 'succeeded' then 'completed' else o.status end
  or exists (
    select 1
    from events e
    where e.bucket = $1
      and e.execution_id = o.id
      and e.seq > t.seq
      and e.type in (
        'execution.started', 'execution.retrying', 'execution.suspended', 'execution.woken', 'lease.released',
        'lease.expired', 'signal.received'
      )
  )
"""

CANCEL_IS_THE_END = """
select id
from queue
where bucket = $1
  and cancel_requested_at is not null
  and session_id is null
"""

SIGNALS_ARE_TAKEN_ONCE = """
select coalesce(g.execution_id, s.execution_id) as id
from (select * from signals where bucket = $1 and step is not null) g
full join (select * from steps where bucket = $1 and kind = 'event' and status = 'done' and not timed_out) s
  on s.execution_id = g.execution_id and s.name = g.step
where g.id is null
  or s.name is null
  or s.event <> g.event
  or s.value is distinct from g.payload
union all
select execution_id
from signals
where bucket = $1
  and step is not null
group by execution_id, step
having count(*) > 1
"""

SIGNALS_ARE_NOT_LOST = """
select g.execution_id as id
from signals g
where g.bucket = $1
  and g.step is null
  and (
    exists (
      select 1
      from steps s
      where s.bucket = $1
        and s.execution_id = g.execution_id
        and s.kind = 'event'
        and s.status = 'pending'
        and s.event = g.event
    )
    or exists (
      select 1
      from signals newer
      where newer.bucket = $1
        and newer.execution_id = g.execution_id
        and newer.event = g.event
        and newer.seq > g.seq
        and newer.step is not null
    )
  )
"""

WAKES_ARE_NOT_LOST = """
select q.id
from queue q
cross join lateral (
  select count(*) filter (where status = 'pending') as pending, count(*) filter (where status <> 'pending') as done,
    bool_or(news) as news
  from steps
  where bucket = $1
    and execution_id = q.id
    and awaited
) s
where q.bucket = $1
  and q.waits_until is not null
  and not coalesce(s.news, false)
  and case q.waits_until when 'any' then s.done > 0 else s.pending = 0 end
"""

WAKES_ONCE = """
select q.id
from queue q
where q.bucket = $1
  and (q.waits_until is not null)::int <> (
    select count(*) filter (where type = 'execution.suspended') - count(*) filter (where type = 'execution.woken')
    from events
    where bucket = $1
      and execution_id = q.id
      and type in ('execution.suspended', 'execution.woken')
  )
union all
select s.execution_id
from steps s
left join queue q on q.bucket = $1 and q.id = s.execution_id
where s.bucket = $1
  and s.awaited
  and q.waits_until is null
"""

CALLS_KNOW_THEIR_CHILDREN = """
select s.execution_id as id
from steps s
left join queue c on c.bucket = $1 and c.id = s.child_id
left join outcomes o on o.bucket = $1 and o.id = s.child_id
where s.bucket = $1
  and s.kind = 'call'
  and s.status is distinct from case when c.id is not null then 'pending' when o.status = 'succeeded' then 'done'
    when o.id is not null then 'failed' end
"""

STEPS_SAY_WHAT_WAS_DONE = """
select s.execution_id as id
from steps s
left join outcomes o on o.bucket = $1 and o.id = s.execution_id
where s.bucket = $1
  and (
    s.kind = 'step' and (s.status <> 'done' or s.value is null)
    or o.id is not null and (s.awaited or s.status = 'pending' and s.kind <> 'call')
    or s.timed_out and (s.kind <> 'event' or s.value is not null)
  )
"""

BELONGS_TO_SOMEBODY = """
select o.id
from outcomes o
where o.bucket = $1
  and not exists (select 1 from executions e where e.bucket = $1 and e.id = o.id)
union all
select x.execution_id
from (
  select execution_id from steps where bucket = $1
  union
  select execution_id from signals where bucket = $1
  union
  select execution_id from approvals where bucket = $1
  union
  select execution_id from webhooks where bucket = $1
  union
  select execution_id from local_calls where bucket = $1
  union
  select execution_id from listeners where bucket = $1
  union
  select execution_id from deliveries where bucket = $1
) x
where not exists (select 1 from executions e where e.bucket = $1 and e.id = x.execution_id)
"""

STAYS_IN_ITS_NAMESPACE = """
select e.id
from executions e
join (
  select id, namespace from queue where bucket = $1
  union all
  select id, namespace from outcomes where bucket = $1
  union all
  select parent_id, namespace from executions where bucket = $1 and parent_id is not null
  union all
  select execution_id, namespace from deliveries where bucket = $1
  union all
  select execution_id, namespace from webhooks where bucket = $1
  union all
  select execution_id, namespace from steps where bucket = $1
  union all
  select execution_id, namespace from signals where bucket = $1
  union all
  select execution_id, namespace from approvals where bucket = $1
  union all
  select execution_id, namespace from idempotency_keys where bucket = $1
  union all
  select execution_id, namespace from local_calls where bucket = $1
  union all
  select execution_id, namespace from listeners where bucket = $1
  union all
  select execution_id, namespace from schedule_ticks where bucket = $1
  union all
  select execution_id, namespace from trigger_events where bucket = $1
  union all
  select execution_id, namespace from events where bucket = $1
  union all
  select execution_id, namespace from logs where bucket = $1
) x on x.id = e.id
where e.bucket = $1
  and x.namespace <> e.namespace
"""

# Keys of batches and of bulks name those, not executions.
A_KEY_NAMES_ONE = """
select k.execution_id as id
from idempotency_keys k
where k.bucket = $1
  and k.expires_at >= clock()
  and not exists (select 1 from executions e where e.bucket = $1 and e.id = k.execution_id)
  and not starts_with(k.scope, 'batch' || chr(31))
  and not starts_with(k.scope, 'bulk' || chr(31))
"""

NOBODY_ASKS_FOR_THE_DEAD = """
select a.execution_id as id
from approvals a
where a.bucket = $1
  and a.status = 'pending'
  and exists (select 1 from outcomes o where o.bucket = $1 and o.id = a.execution_id)
"""

WHO_IS_ASKED_IS_WAITED_FOR = """
select s.execution_id as id
from steps s
join approvals a on a.bucket = $1 and a.execution_id = s.execution_id and a.request_id = s.request_id
where s.bucket = $1
  and s.kind = 'approval'
  and (s.status = 'pending') <> (a.status = 'pending')
  and not exists (select 1 from outcomes o where o.bucket = $1 and o.id = s.execution_id)
"""

ENDED_IS_TOLD = """
select o.id
from outcomes o
join webhooks w on w.bucket = $1 and w.execution_id = o.id
where o.bucket = $1
  and not exists (
    select 1
    from deliveries d
    where d.bucket = $1
      and d.execution_id = o.id
      and d.webhook_n = w.n
  )
  and exists (
    select 1
    from events e
    where e.bucket = $1
      and e.execution_id = o.id
    having bool_or(e.type = 'execution.queued') and not bool_or(starts_with(e.type, 'delivery.'))
  )
union all
select e.id
from executions e
left join (select execution_id, count(*) as n from webhooks where bucket = $1 group by execution_id) w
  on w.execution_id = e.id
where e.bucket = $1
  and e.webhooks <> coalesce(w.n, 0)
"""

# To a webhook everything that has not succeeded has failed (`domain/notice.py`); endpoints hear what it was.
TOLD_WHAT_IS_TRUE = """
select d.execution_id as id
from deliveries d
left join outcomes o on o.bucket = $1 and o.id = d.execution_id
where d.bucket = $1
  and (d.webhook_n > 0 or d.event in ('execution.completed', 'execution.failed', 'execution.cancelled',
    'execution.timeout'))
  and (
    o.id is null
    or d.event <> 'execution.' || case
      when o.status = 'succeeded' then 'completed'
      when d.webhook_n > 0 then 'failed'
      else o.status
    end
  )
"""

ATTEMPTS_BELONG_TO_DELIVERIES = """
select a.delivery_id as id
from delivery_attempts a
where a.bucket = $1
  and not exists (select 1 from deliveries d where d.bucket = $1 and d.id = a.delivery_id)
"""

DELIVERED_WAS_ANSWERED = """
select d.id
from deliveries d
left join delivery_attempts a on a.bucket = $1 and a.delivery_id = d.id and a.attempt = d.attempt
where d.bucket = $1
  and d.state in ('delivered', 'dead')
  and d.attempt > 0
  and (d.state = 'delivered') <> (a.outcome is not distinct from 'delivered')
"""

ATTEMPTS_ARE_COUNTED = """
select d.id
from deliveries d
left join (
  select delivery_id, count(*) as n, max(attempt) as last
  from delivery_attempts
  where bucket = $1
  group by delivery_id
) a on a.delivery_id = d.id
where d.bucket = $1
  and (
    d.charged > d.attempts_max
    or d.charged > d.attempt
    or coalesce(a.last, 0) > d.attempt
    or d.endpoint_id is null and coalesce(a.n, 0) <> d.attempt - (d.state = 'leased')::int
  )
"""

NOBODY_KEEPS_IT_OPEN = """
select execution_id as id
from webhooks
where bucket = $1
  and (position('whsec_'::bytea in secret_sealed) > 0 or position('{"'::bytea in headers_sealed) = 1)
"""

ENDPOINTS_ARE_SEALED = """
select id
from endpoints
where bucket = $1
  and (
    position('whsec_'::bytea in secret_sealed) > 0
    or position('whsec_'::bytea in previous_sealed) > 0
    or position('{"'::bytea in headers_sealed) = 1
  )
"""

TRIGGERS_ARE_SEALED = """
select id
from triggers
where bucket = $1
  and (position('whsec_'::bytea in secret_sealed) > 0 or position('whsec_'::bytea in previous_sealed) > 0)
"""

TICKS_ARE_FOUND = """
select s.id
from schedules s
where s.bucket = $1
  and s.waiting = 0
  and exists (
    select 1
    from schedule_ticks t
    where t.bucket = $1
      and t.schedule_id = s.id
      and t.outcome = 'waiting'
      and not t.by_hand
  )
"""

LISTS_ARE_WHOLE = """
select coalesce(m.writer_execution_id, '00000000-0000-0000-0000-000000000000'::uuid) as id
from memory m
left join (
  select scope, scope_id, key, namespace, count(*) as n, min(position) as first, max(position) as last
  from memory_items
  where bucket = $1
  group by scope, scope_id, key, namespace
) i on (i.scope, i.scope_id, i.key, i.namespace) = (m.scope, m.scope_id, m.key, m.namespace)
where m.bucket = $1
  and (
    coalesce(i.n, 0) <> m.appended
    or i.first <> m.length - m.appended
    or i.last <> m.length - 1
  )
"""

AUDIT_CHAIN_HOLDS = """
select coalesce(a.id, gen_random_uuid()) as id
from audit_heads h
left join lateral (
  select id, namespace, seq, previous, hash, before, after, at, actor_kind, actor, key_id, actor_namespace, request_id,
    address, user_agent, action, object_kind, object_id,
    lag(hash, 1, h.removed_hash) over (order by seq) as hash_before,
    lag(seq, 1, h.removed_seq) over (order by seq) as seq_before,
    count(*) over () as rows
  from audit
  where bucket = $1
    and namespace = h.namespace
) a on true
where h.bucket = $1
  and (
    coalesce(a.rows, 0) <> h.seq - h.removed_seq
    or a.seq <> a.seq_before + 1
    or a.previous <> a.hash_before
    or a.seq = h.seq and a.hash <> h.hash
    or a.hash <> audit_hash(
      a.previous,
      array[
        'controlplane.audit.1', a.namespace::text, a.seq::text, a.id::text,
        to_char(a.at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
        a.actor_kind, a.actor, a.key_id::text, a.actor_namespace, a.request_id, a.address, a.user_agent, a.action,
        a.object_kind, a.object_id, convert_from(a.before, 'UTF8'), convert_from(a.after, 'UTF8')
      ]
    )
  )
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Invariant:
    """`promise`: what is broken when the query finds something. `prefix`: what its ids are shown with."""

    name: str
    promise: str
    query: str
    hot: bool = False
    prefix: str = "exec"

    def shown(self, id_: UUID) -> str:
        """An id that this found, as people see it."""
        return show_execution(id_) if self.prefix == "exec" else show(self.prefix, id_)


INVARIANTS = (
    Invariant(
        name="in_one_place",
        promise="Whatever was accepted is in the queue or has ended, never both and never neither.",
        query=IN_ONE_PLACE,
    ),
    Invariant(
        name="stands_for_one_thing",
        promise="Whoever waits without a lease says for what, whoever is held back says in which line.",
        query=STANDS_FOR_ONE_THING,
        hot=True,
    ),
    Invariant(
        name="one_lease_per_attempt",
        promise="An attempt is leased once, and the attempts of an execution are counted without a gap.",
        query=ONE_LEASE_PER_ATTEMPT,
    ),
    Invariant(
        name="not_ahead",
        promise="No step, memory, log line or question is of an attempt that was never leased.",
        query=NOT_AHEAD,
    ),
    Invariant(
        name="moves_as_it_may",
        promise="An execution begins once, is leased only when nobody has it, and its attempts are numbered in order.",
        query=MOVES_AS_IT_MAY,
    ),
    Invariant(
        name="stands_where_its_story_does",
        promise="Whoever is leased began last, whoever waits without a lease gave it back last, and nobody else did.",
        query=STANDS_WHERE_ITS_STORY_DOES,
    ),
    Invariant(
        name="leased_by_its_node",
        promise="A lease is of a process of the node that serves the target, in the same namespace.",
        query=LEASED_BY_ITS_NODE,
        hot=True,
    ),
    Invariant(
        name="retries_are_counted",
        promise="No more failures are forgiven than there are retries.",
        query=RETRIES_ARE_COUNTED,
    ),
    Invariant(
        name="not_before_its_time",
        promise="A retry or a later start is not ready before its moment.",
        query=NOT_BEFORE_ITS_TIME,
        hot=True,
    ),
    Invariant(
        name="ends_once",
        promise="An execution's story has one end, that of its outcome, and nothing begins after it.",
        query=ENDS_ONCE,
    ),
    Invariant(
        name="cancel_is_the_end",
        promise="What is being cancelled runs under its last lease; nobody can lease it again.",
        query=CANCEL_IS_THE_END,
        hot=True,
    ),
    Invariant(
        name="signals_are_taken_once",
        promise="A signal is one step's, whose value it is, and no step of an event has its value from elsewhere.",
        query=SIGNALS_ARE_TAKEN_ONCE,
    ),
    Invariant(
        name="signals_are_not_lost",
        promise="No signal is kept while its execution waits for it, and none is taken before an older one.",
        query=SIGNALS_ARE_NOT_LOST,
        hot=True,
    ),
    Invariant(
        name="wakes_are_not_lost",
        promise="Whoever waits without a lease for what has come is about to be looked at.",
        query=WAKES_ARE_NOT_LOST,
        hot=True,
    ),
    Invariant(
        name="wakes_once",
        promise="An execution goes on once for each time it was suspended, and only who waits is awaited.",
        query=WAKES_ONCE,
    ),
    Invariant(
        name="calls_know_their_children",
        promise="A call is open as long as its child is, and ends as that has ended.",
        query=CALLS_KNOW_THEIR_CHILDREN,
    ),
    Invariant(
        name="steps_say_what_was_done",
        promise="A step is there with its value or not at all; nothing is awaited by what has ended.",
        query=STEPS_SAY_WHAT_WAS_DONE,
    ),
    Invariant(
        name="belongs_to_somebody",
        promise="Nothing belongs to an execution that is not there.",
        query=BELONGS_TO_SOMEBODY,
    ),
    Invariant(
        name="stays_in_its_namespace",
        promise="What belongs to an execution, its children included, is in its namespace.",
        query=STAYS_IN_ITS_NAMESPACE,
    ),
    Invariant(
        name="a_key_names_one",
        promise="A key that was used names an execution that is there.",
        query=A_KEY_NAMES_ONE,
    ),
    Invariant(
        name="nobody_asks_for_the_dead",
        promise="Of what has ended nobody is asked any more: no approval is open.",
        query=NOBODY_ASKS_FOR_THE_DEAD,
    ),
    Invariant(
        name="who_is_asked_is_waited_for",
        promise="An approval that is waited for as a step is open as long as the step is.",
        query=WHO_IS_ASKED_IS_WAITED_FOR,
    ),
    Invariant(
        name="ended_is_told",
        promise="Whoever asked to be told of an end is told: a delivery for each webhook.",
        query=ENDED_IS_TOLD,
    ),
    Invariant(
        name="told_what_is_true",
        promise="Nobody is told of an end that has not come, or of another than has.",
        query=TOLD_WHAT_IS_TRUE,
    ),
    Invariant(
        name="delivered_was_answered",
        promise="A delivery is delivered when its last attempt was, and only then.",
        query=DELIVERED_WAS_ANSWERED,
        prefix="dlv",
    ),
    Invariant(
        name="attempts_are_counted",
        promise="A delivery is tried as often as it says, no more often than it may be, and no attempt is unrecorded.",
        query=ATTEMPTS_ARE_COUNTED,
        prefix="dlv",
    ),
    Invariant(
        name="attempts_belong_to_deliveries",
        promise="No attempt is recorded of a delivery that is not there.",
        query=ATTEMPTS_BELONG_TO_DELIVERIES,
        prefix="dlv",
    ),
    Invariant(
        name="nobody_keeps_it_open",
        promise="No secret stands where it could be read: what is sealed is sealed.",
        query=NOBODY_KEEPS_IT_OPEN,
    ),
    Invariant(
        name="endpoints_are_sealed",
        promise="No secret of an endpoint stands where it could be read.",
        query=ENDPOINTS_ARE_SEALED,
        prefix="ep",
    ),
    Invariant(
        name="triggers_are_sealed",
        promise="No secret of a trigger stands where it could be read.",
        query=TRIGGERS_ARE_SEALED,
        prefix="trg",
    ),
    Invariant(
        name="ticks_are_found",
        promise="A tick that waits for its schedule's last execution is looked for.",
        query=TICKS_ARE_FOUND,
        prefix="sch",
    ),
    Invariant(
        name="lists_are_whole",
        promise="A list in memory has the items that it says, without a gap.",
        query=LISTS_ARE_WHOLE,
    ),
    Invariant(
        name="audit_chain_holds",
        promise="Each row of the audit log goes on from the one before it, says what was written; none is missing.",
        query=AUDIT_CHAIN_HOLDS,
        prefix="aud",
    ),
)
"""All that there are."""


async def violations(conn: Connection, query: str, bucket: int, *, limit: int = FOUND_MAX) -> list[UUID]:
    """What of this bucket breaks the invariant with this query, up to `limit`; the rest is not read."""
    async with conn.transaction(readonly=True):
        cursor = await conn.cursor(query, bucket)
        return [row["id"] for row in await cursor.fetch(limit)]


async def broken(conn: Connection, buckets: Iterable[int]) -> dict[Invariant, list[UUID]]:
    """Those that do not hold, with the first of what breaks each of them."""
    places = list(buckets)
    found = {
        one: [id_ for bucket in places for id_ in await violations(conn, one.query, bucket)][:FOUND_MAX]
        for one in INVARIANTS
    }
    return {one: ids for one, ids in found.items() if ids}


HOT = {one.name: one for one in INVARIANTS if one.hot}
"""Those that a server asks of itself, again and again."""


async def hot(conn: Connection, name: str, bucket: int) -> list[str]:
    """What of this bucket breaks the hot invariant of this name, as people see it."""
    return [HOT[name].shown(id_) for id_ in await violations(conn, HOT[name].query, bucket)]
