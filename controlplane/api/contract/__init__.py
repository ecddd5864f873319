"""What every route promises on the wire, by handler, and what its body may say, by form."""

from __future__ import annotations

from controlplane.api.contract import (
    agentfield,
    audit,
    endpoints,
    events,
    executions,
    keys,
    memory,
    nodes,
    plans,
    system,
)
from controlplane.api.contract.said import Contract, Rules

PARTS = (executions, plans, nodes, memory, events, endpoints, keys, audit, system, agentfield)

CONTRACT: Contract = {handler: said for part in PARTS for handler, said in part.CONTRACT.items()}
RULES: Rules = {form: rules for part in PARTS for form, rules in part.RULES.items()}
