"""Why some of what Schemathesis calls a failure is none. Each reason is as narrow as it can be said.

A document says what a request looks like. Whether a moment is over, a key was used before or two names in a list are
the same is not in its words; what is refused for such a reason is refused with a problem that names it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

POSITIVE, NEGATIVE, METHOD = "RejectedPositiveData", "AcceptedNegativeData", "UnsupportedMethodResponse"
Json = Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """`failure`: of Schemathesis. The others, where they are said, are patterns of the route and of a problem."""

    failure: str
    why: str
    route: str = ".*"
    status: int | None = None
    code: str = ".*"
    where: str = ".*"
    detail: str = ".*"

    def meets(self, failure: str, route: str, status: int, said: Json) -> bool:
        members = said if isinstance(said, dict) else {}
        return (
            failure == self.failure
            and self.status in (None, status)
            and re.fullmatch(self.route, route) is not None
            and all(
                re.fullmatch(pattern, str(members.get(name, "")), re.DOTALL)
                for name, pattern in (("code", self.code), ("where", self.where), ("detail", self.detail))
            )
        )


def refused(why: str, *, code: str = "invalid", where: str = ".*", detail: str = ".*", route: str = ".*") -> Reason:
    """What fits the document and is refused all the same."""
    return Reason(failure=POSITIVE, why=why, code=code, where=where, detail=detail, route=route)


REASONS: Sequence[Reason] = [
    refused("The key was used before, with another request.", code="idempotency_conflict"),
    refused("Which addresses may be called is the operator's word.", code="egress_refused"),
    refused("What a host and a port are is more than a pattern can say.", where=r"(body|items).*url"),
    refused("Which headers may be sent along is a list of those that may not.", where=r"(body|items).*headers.*"),
    refused("Who sends signs the body as its trigger says.", code="unauthorized", route="POST /hooks/.*"),
    refused("Whether a cron expression ever fires is not in its form.", where=r"body\.cron"),
    refused("Zones are those of the time zone database, and go with cron alone.", where=r"body\.time_zone"),
    refused(
        "The moment is over, or too far away.", where=r".*run_at", detail="(This moment is over|More than|Not a).*"
    ),
    refused("Names are told apart in one list.", where=r"body\.reasoners", detail="(Two|More).*"),
    refused("A scope has its id here or in a header; that of the global one is left alone.", where=r".*scope_id"),
    refused("A vector is measured: not all zero, not too long.", where=r"body\.(query_)?embedding"),
    refused("The parts of a scheme belong together; some a preset says.", where=r"body\.\w+", route=".*triggers.*"),
    refused("What a filter may say depends on the action.", where=r"body\.(filter.*|all|reuse)", route=".*bulk.*"),
    refused("The sum over all groups is bounded.", where=r"body\.(writes|entries)", detail="(From 1 to|More than).*"),
    refused("A retry is judged with what the reasoner was registered with.", where=r".*retry\.\w+"),
    refused("An instance is only looked at of a node that is called.", where=r"body\.instance_id"),
    refused("Whose node may be spoken of is in no form.", code="node_not_allowed"),
    refused("It belongs to another node.", code="execution_ownership_mismatch"),
    refused(
        "A step belongs to the attempt that a header names, and is a key itself.", where=r"body(\.items\[\d+\])?\.step"
    ),
    refused("To JSON Schema 7.0 is a whole number, which it is to no decoder.", detail="Expected `int.*got `float`."),
    refused(
        "A duration in a query is said in digits, and not as 1e-9.", where="query/wait_seconds", detail="A number.*"
    ),
    refused("Which characters there are depends on the version of Unicode.", detail="Holds a control character.*"),
    refused("A line of another execution.", where=r"body\..*execution_id", detail="Not the execution in the path."),
    refused("Nested deeper than is kept.", detail="Nested deeper than.*"),
    refused("Larger than is kept.", code="too_large"),
    refused("JSON is read strictly: no number that a double cannot hold.", code="malformed_json"),
    refused("An envelope is looked into.", where=r"body\.(data|requestId).*", route=".*approval.*"),
    refused("The name of the key that the server was started with.", where=r"body\.name", detail="That is the name.*"),
    refused("No webhook was asked for.", code="no_webhook"),
    refused("A namespace may have so many of them.", code="cap_reached"),
    refused(
        "What the feed and the list of deliveries have in common is not all that they know.",
        where=r"query/\w+",
        detail="(Only of the feed|The feed knows no).*",
        route="GET /api/v1/deliveries",
    ),
    refused(
        "A cursor of the feed names buckets that there are, each once, and no place ahead of everything.",
        where="query/after",
        route="GET /api/v1/deliveries",
    ),
    refused("An execution has so much of it at most.", code="signals_full"),
    refused("One of the ids belongs to what was not made here.", where=r"body\.filter\.ids"),
    refused("An id names a bucket that there is not.", detail="One of these ids was not made.*"),
    Reason(
        failure=NEGATIVE,
        why="Each item of a batch is answered by itself, whatever its neighbours are.",
        route="POST /api/v1/(execute/batch|memory/write|steps/write|sessions/.*/(results|logs))",
        status=200,
    ),
    Reason(
        failure=NEGATIVE,
        why="Where a header says the key, that of the body, which is all that it may say, is not looked at.",
        route="POST /api/v1/(schedules/.*/run|triggers/.*/replay)",
        status=202,
    ),
    Reason(
        failure=NEGATIVE,
        why="Of Last-Event-ID and `after` the header counts, and the other is not looked at.",
        route="GET /(jobs/.*/stream|api/.*/events.*)",
    ),
    Reason(
        failure=NEGATIVE,
        why="The same, of lines that are taken along.",
        route="POST /api/v1/sessions/.*/logs",
        status=202,
    ),
    Reason(
        failure=NEGATIVE,
        why="The body of a webhook is its sender's: nothing of it is wrong for us once it is signed.",
        route="POST /hooks/.*",
    ),
    Reason(
        failure=METHOD,
        why="By GET the path is the one that reads an execution, which there is not of this name.",
        route="POST /api/v1/executions/(batch-status|note)",
        status=422,
    ),
    Reason(
        failure=METHOD,
        why="By GET the path is the one that reads a vector, which there is not under this key.",
        route=r"\w+ /api/v1/memory/vector/(namespace|search)",
        status=404,
    ),
]


def reason_of(failure: str, route: str, status: int, said: Json) -> Reason | None:
    """Why this failure is none; None where it is one."""
    return next((one for one in REASONS if one.meets(failure, route, status, said)), None)
