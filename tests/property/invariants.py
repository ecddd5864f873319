"""What must be true after every commit, as queries: each finds the executions of one bucket ($1) of which it is not.

A query names the invariant that it asks for; what it finds is wrong, whoever wrote it and whatever came before. They
lock nothing and read whole tables of a bucket: they are for tests, and for a person who wants to be sure.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Invariant:
    """`promise`: what is broken when the query finds an execution (`id`)."""

    name: str
    promise: str
    query: str


IN_ONE_PLACE = Invariant(
    name="in_one_place",
    promise="Whatever was accepted is in the queue or has ended, never both and never neither (I-3, I-8).",
    query="""
select e.id
from executions e
left join queue q on q.bucket = $1 and q.id = e.id
left join outcomes o on o.bucket = $1 and o.id = e.id
where e.bucket = $1
  and (q.id is null) = (o.id is null)
""",
)

STANDS_FOR_ONE_THING = Invariant(
    name="stands_for_one_thing",
    promise="Whoever waits without a lease says for what, whoever is held back says in which line (I-8, I-20).",
    query="""
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
""",
)

ONE_LEASE_PER_ATTEMPT = Invariant(
    name="one_lease_per_attempt",
    promise="An attempt is leased once, and the attempts of an execution are counted without a gap (I-6).",
    query="""
select one.id
from (
  select id, attempt from queue where bucket = $1
  union all
  select id, attempt from outcomes where bucket = $1
) one
left join (
  select execution_id, count(*) as leases, count(distinct attempt) as attempts, max(attempt) as last
  from events
  where bucket = $1
    and type = 'execution.started'
  group by execution_id
) s on s.execution_id = one.id
where (one.attempt, one.attempt, one.attempt)
  <> (coalesce(s.leases, 0), coalesce(s.attempts, 0), coalesce(s.last, 0))
""",
)

NOT_AHEAD = Invariant(
    name="not_ahead",
    promise="No step was written by an attempt that was never leased (I-7).",
    query="""
select s.execution_id as id
from steps s
left join queue q on q.bucket = $1 and q.id = s.execution_id
left join outcomes o on o.bucket = $1 and o.id = s.execution_id
where s.bucket = $1
  and s.attempt not between 1 and coalesce(q.attempt, o.attempt, 0)
""",
)

RETRIES_ARE_COUNTED = Invariant(
    name="retries_are_counted",
    promise="No more failures are forgiven than there are retries (I-10).",
    query="""
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
""",
)

NOT_BEFORE_ITS_TIME = Invariant(
    name="not_before_its_time",
    promise="A retry or a later start is not ready before its moment (I-15).",
    query="""
select id
from queue
where bucket = $1
  and state in ('ready', 'blocked', 'leased')
  and available_at > clock()
""",
)

ENDS_ONCE = Invariant(
    name="ends_once",
    promise="An execution's story has one end, that of its outcome, and nothing begins after it (I-12, I-13, I-14).",
    query="""
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
  or t.ends is distinct from 1
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
""",
)

CANCEL_IS_THE_END = Invariant(
    name="cancel_is_the_end",
    promise="What is being cancelled runs under its last lease; nobody can lease it again (I-14).",
    query="""
select id
from queue
where bucket = $1
  and cancel_requested_at is not null
  and session_id is null
""",
)

SIGNALS_ARE_TAKEN_ONCE = Invariant(
    name="signals_are_taken_once",
    promise="A signal is one step's, whose value it is, and no step of an event has its value from elsewhere (I-19).",
    query="""
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
""",
)

SIGNALS_ARE_NOT_LOST = Invariant(
    name="signals_are_not_lost",
    promise="No signal is kept while its execution waits for it, and none is taken before an older one (I-19).",
    query="""
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
""",
)

WAKES_ARE_NOT_LOST = Invariant(
    name="wakes_are_not_lost",
    promise="Whoever waits without a lease for what has come is about to be looked at (I-19, I-20).",
    query="""
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
""",
)

WAKES_ONCE = Invariant(
    name="wakes_once",
    promise="An execution goes on once for each time it was suspended, and only who waits is awaited (I-20).",
    query="""
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
""",
)

CALLS_KNOW_THEIR_CHILDREN = Invariant(
    name="calls_know_their_children",
    promise="A call is open as long as its child is, and ends as that has ended (I-20).",
    query="""
select s.execution_id as id
from steps s
left join queue c on c.bucket = $1 and c.id = s.child_id
left join outcomes o on o.bucket = $1 and o.id = s.child_id
where s.bucket = $1
  and s.kind = 'call'
  and s.status is distinct from case when c.id is not null then 'pending' when o.status = 'succeeded' then 'done'
    when o.id is not null then 'failed' end
""",
)

STEPS_SAY_WHAT_WAS_DONE = Invariant(
    name="steps_say_what_was_done",
    promise="A step is there with its value or not at all; nothing is awaited by what has ended (I-17).",
    query="""
select s.execution_id as id
from steps s
left join outcomes o on o.bucket = $1 and o.id = s.execution_id
where s.bucket = $1
  and (
    s.kind = 'step' and (s.status <> 'done' or s.value is null)
    or o.id is not null and (s.awaited or s.status = 'pending' and s.kind <> 'call')
    or s.timed_out and (s.kind <> 'event' or s.value is not null)
  )
""",
)

AUDIT_CHAIN_HOLDS = Invariant(
    name="audit_chain_holds",
    promise="Each row of the audit log goes on from the one before it, says what was written; none is missing (I32).",
    query="""
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
""",
)

ALWAYS = (
    IN_ONE_PLACE,
    STANDS_FOR_ONE_THING,
    ONE_LEASE_PER_ATTEMPT,
    NOT_AHEAD,
    RETRIES_ARE_COUNTED,
    NOT_BEFORE_ITS_TIME,
    ENDS_ONCE,
    CANCEL_IS_THE_END,
    SIGNALS_ARE_TAKEN_ONCE,
    SIGNALS_ARE_NOT_LOST,
    WAKES_ARE_NOT_LOST,
    WAKES_ONCE,
    CALLS_KNOW_THEIR_CHILDREN,
    STEPS_SAY_WHAT_WAS_DONE,
    AUDIT_CHAIN_HOLDS,
)


def broken(invariants: tuple[Invariant, ...]) -> str:
    """One statement that asks for all of these: the `name` of an invariant and the `id` of what breaks it."""
    return "\nunion all\n".join(f"select '{one.name}' as name, id from ({one.query}) {one.name}" for one in invariants)
