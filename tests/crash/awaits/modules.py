"""Whose awaits are died at with real processes around them, and the few that no act passes."""

from __future__ import annotations

SERVER = (
    "controlplane.daemons.loop",
    "controlplane.daemons.dispatcher",
    "controlplane.daemons.announcer",
    "controlplane.daemons.pusher",
    "controlplane.daemons.overseer",
    "controlplane.outbound.dial",
    "controlplane.outbound.exchange",
    "controlplane.outbound.node",
    "controlplane.outbound.webhook",
    "controlplane.postgres.lane",
    "controlplane.postgres.listen",
    "controlplane.postgres.pool",
    "controlplane.stages.deliver",
    "controlplane.api.front",
    "controlplane.api.body",
    "controlplane.api.doors",
    "controlplane.api.executions",
    "controlplane.api.batch",
    "controlplane.api.leases",
    "controlplane.api.memory",
    "controlplane.api.steps",
    "controlplane.api.upkeep",
    "controlplane.api.whose",
    "controlplane.api.nodes",
    "controlplane.api.agentfield.callbacks",
    "controlplane.api.agentfield.processes",
)
"""Whatever waits for somebody else: receivers, nodes, callers, the other replicas; and the database on their behalf.
The stages and the other daemons are killed one statement after the other (`tests.crash.modules`)."""

SDK = (
    "controlplane_sdk.agent",
    "controlplane_sdk.attempt",
    "controlplane_sdk.checkpoints",
    "controlplane_sdk.children",
    "controlplane_sdk.client",
    "controlplane_sdk.connection",
    "controlplane_sdk.context",
    "controlplane_sdk.durable",
    "controlplane_sdk.executions",
    "controlplane_sdk.heartbeat",
    "controlplane_sdk.lane",
    "controlplane_sdk.membership",
    "controlplane_sdk.memory",
    "controlplane_sdk.results",
    "controlplane_sdk.session",
    "controlplane_sdk.signals",
    "controlplane_sdk.sse",
    "controlplane_sdk.steps",
    "controlplane_sdk.thread",
    "controlplane_sdk.trace",
    "controlplane_sdk.transport",
    "controlplane_sdk.writes",
)
"""All of an agent and a caller. The clients of single resources send one request each, through `transport`."""

MODULES = SERVER + SDK

STAGE = "another daemon or a person asks for it; every statement of it kills in tests/crash/stories"
RACE = "only where two meet at one moment; whoever is second changes nothing, and asks again"
REFUSED = "only where the other side refuses what it cannot read: nothing was written by then"
UNUSED = "nobody calls it but a test"
PAUSE = "a pause between two tries, after which the same is asked again"
BUG = "only after an error that nobody foresaw: a pause, and then the next tick"
CHANCE = "only where something is under way at the very moment, which cannot be arranged from outside"
DEAF = "only where a connection does not even hear: tests/chaos/test_ways.py"
NO_EXECUTION = "only outside of an execution, where nothing is kept between two runs of a program"

EXCEPTIONS: dict[str, str] = {
    "api.doors:Lanes.close": "the last line of a server that has ended in order: everybody was answered",
    "api.executions:_parent#1": "only for an id that a node made up: a look",
    "api.leases:_drained": CHANCE,
    "api.leases:heartbeat#3": "a pause before a beat is written, and only for one that waits for seconds",
    "api.leases:heartbeat#9": RACE,
    "api.leases:lease#4": CHANCE,
    "api.memory:_commit_each#1": "a person takes away several at once: one after the other, each as one alone is",
    "api.memory:_committed": "the same",
    "controlplane_sdk.checkpoints:Checkpoints.idle": UNUSED,
    "controlplane_sdk.children:Children.call#1": NO_EXECUTION,
    "controlplane_sdk.children:Children.call#2": NO_EXECUTION,
    "controlplane_sdk.children:Children.map#1": NO_EXECUTION,
    "controlplane_sdk.client:Handle.events#5": PAUSE,
    "controlplane_sdk.context:Context.sleep#1": NO_EXECUTION,
    "controlplane_sdk.context:Context.step#1": NO_EXECUTION,
    "controlplane_sdk.durable:Durable._ask#2": PAUSE,
    "controlplane_sdk.executions:wait#2": "only of an execution that takes longer than half a minute",
    "controlplane_sdk.heartbeat:Heartbeat._beat_on#5": REFUSED,
    "controlplane_sdk.lane:Lane.idle": UNUSED,
    "controlplane_sdk.membership:Membership.connect#3": PAUSE,
    "controlplane_sdk.results:Results._acks": REFUSED,
    "controlplane_sdk.results:Results._send#3": PAUSE,
    "controlplane_sdk.results:Results._send#4": REFUSED,
    "controlplane_sdk.results:Results._send#5": RACE,
    "controlplane_sdk.results:Results.deliver#2": REFUSED,
    "controlplane_sdk.results:Results.idle": UNUSED,
    "controlplane_sdk.session:Session._free_slots#1": "a wait for a free slot: nothing is asked meanwhile",
    "controlplane_sdk.session:Session._lease_on#5": PAUSE,
    "controlplane_sdk.steps:Steps.idle": UNUSED,
    "controlplane_sdk.trace:Trace._persist#2": PAUSE,
    "controlplane_sdk.trace:Trace._ship_lines#2": REFUSED,
    "controlplane_sdk.trace:Trace._ship_lines#3": REFUSED,
    "controlplane_sdk.trace:Trace._ship_lines#4": REFUSED,
    "controlplane_sdk.transport:Transport.stream#3": REFUSED,
    "controlplane_sdk.writes:Writes._send_once#2": REFUSED,
    "controlplane_sdk.writes:Writes._send_once#3": REFUSED,
    "controlplane_sdk.writes:Writes.idle": UNUSED,
    "daemons.dispatcher:Dispatcher.drain#1": CHANCE,
    "daemons.loop:keep": "only after an outage longer than its patience or an error: a pause, and it begins anew",
    "daemons.loop:run#3": BUG,
    "daemons.overseer:Overseer._care_for#6": CHANCE,
    "daemons.pusher:Pusher._guard#2": BUG,
    "daemons.pusher:Pusher._serve#8": PAUSE,
    "daemons.pusher:Pusher._serve#9": PAUSE,
    "daemons.pusher:Pusher._write_down#4": CHANCE,
    "outbound.exchange:_talk#2": "only where a kept connection is closed just when it is used: it is asked again",
    "postgres.lane:Lane.close#1": CHANCE,
    "postgres.pool:Pool.expire_connections": DEAF,
    "postgres.pool:Pool.give_back#2": "only for what nobody used for a minute: tests/integration/postgres/test_pool.py",
    "postgres.pool:_try#7": DEAF,
    "postgres.pool:outlast#2": PAUSE,
    "postgres.lane:Lane._part": "only for a value that the database cannot take, which the door refuses",
    "postgres.lane:Lane._settle#2": "only for a value that the database cannot take, which the door refuses",
    "postgres.pool:open_pool#2": PAUSE,
    "stages.deliver:_note#2": STAGE,
    "stages.deliver:_settled_before": RACE,
    "stages.deliver:_unsent": STAGE,
    "stages.deliver:claim_due#4": STAGE,
    "stages.deliver:give_up": STAGE,
    "stages.deliver:reclaim": STAGE,
}
"""Points (`module:function#n`), or all of a function, that no act has to pass, and why that is no loss."""
