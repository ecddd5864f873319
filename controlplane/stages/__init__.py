"""What happens: one module per step of an execution's life, named by its verb, and the only place that writes.

    submit ──► queue ──► lease ──► run (on a node) ──► complete ──► finish ──► deliver
                 ▲          │ ▲         │
                 └─ expire ─┘ └─ renew  └─ checkpoint, log

A stage takes a connection and a batch and returns one result per item, in order. It opens its own transaction.
Locks are taken in one order everywhere: queue (by bucket and id), outcomes, memory, deliveries, events.
"""
