"""Everything that can be refused, in one tree, without a word of HTTP.

    ControlPlaneError
    ├── NotFound       ExecutionNotFound  TargetNotFound  NodeNotFound  SessionNotFound  MemoryNotFound
    │                  DeliveryNotFound  NoApprovalRequest  ScheduleNotFound  BulkNotFound  StepNotFound
    │                  LimitNotFound  KeyNotFound  NamespaceNotFound  TriggerNotFound  TriggerEventNotFound
    │                  EndpointNotFound
    ├── Conflict       LeaseLost  AlreadyFinished  InvalidState  SessionClosed  SessionDraining  LengthMismatch
    │                  NotAList  IdempotencyConflict  ApprovalAlreadyRequested  ScheduleExists  SignalsFull
    │                  NamespaceExists  KeyReplaced  KeyRevoked
    │                  TriggerExists  EndpointExists  EndpointsFull  NodeInUse
    ├── Refused        Malformed  Invalid  InvalidParameter  TooLarge  TargetMalformed  EgressRefused  NoWebhook
    │                  Unauthorized  NotItsNode  ScopeMissing  NodeNotAllowed  NamespaceNotAllowed  PagesReadOnly
    │                  NotHttp  HeadTooLarge  TooSlow  RateLimited  CapReached  NamespaceFull  PayloadsHidden
    └── Unavailable    DatabaseUnavailable (DatabaseFull)  ShuttingDown  WaitedTooLong  TooManyConnections

The class docstring is the default message, `code` the stable slug that a program may switch on.
`where` names the offending part of the input (a JSON pointer or a header), `fix` the next step for a person.
`api/problems.py` maps every class to a status; a test demands that none is missing.
"""

from __future__ import annotations

from typing import ClassVar, TypeVar

Error = TypeVar("Error", bound=BaseException)


def bare(error: Error) -> Error:
    """The error without the way that it came, for whoever keeps it or has answered it.

    A traceback holds its frames and theirs what was asked, which may be large; and one of them often holds the error,
    so that all of it would stay until the collector comes by.
    """
    error.__context__ = error.__cause__ = None
    return error.with_traceback(None)


class ControlPlaneError(Exception):
    """Something was refused."""

    code: ClassVar[str] = "error"

    def __init__(
        self, detail: str | None = None, *, where: str | None = None, fix: str | None = None, **facts: object
    ) -> None:
        self.detail = detail or (type(self).__doc__ or "").strip()
        self.where = where
        self.fix = fix
        self.facts = facts
        super().__init__(self.detail)


class NotFound(ControlPlaneError):
    """There is no such thing."""

    code = "not_found"


class ExecutionNotFound(NotFound):
    """There is no execution with this id."""

    code = "execution_not_found"


class TargetNotFound(NotFound):
    """No registered node has this target."""

    code = "target_not_found"


class NodeNotFound(NotFound):
    """No node is registered under this id."""

    code = "node_not_found"


class SessionNotFound(NotFound):
    """There is no session with this id; open a new one."""

    code = "session_not_found"


class MemoryNotFound(NotFound):
    """Nothing is stored under this key."""

    code = "memory_not_found"


class DeliveryNotFound(NotFound):
    """There is no delivery with this id."""

    code = "delivery_not_found"


class NoApprovalRequest(NotFound):
    """Nothing was asked to be approved here."""

    code = "no_approval_request"


class ScheduleNotFound(NotFound):
    """There is no schedule of this name."""

    code = "schedule_not_found"


class BulkNotFound(NotFound):
    """There is no bulk with this id."""

    code = "bulk_not_found"


class StepNotFound(NotFound):
    """The execution has no step of this name."""

    code = "step_not_found"


class LimitNotFound(NotFound):
    """There is no limit with this key."""

    code = "limit_not_found"


class KeyNotFound(NotFound):
    """There is no API key with this id."""

    code = "key_not_found"


class NamespaceNotFound(NotFound):
    """There is no namespace of this name."""

    code = "namespace_not_found"


class TriggerNotFound(NotFound):
    """There is no trigger of this name."""

    code = "trigger_not_found"


class TriggerEventNotFound(NotFound):
    """The trigger has no event with this id, or it is not kept any more."""

    code = "trigger_event_not_found"


class EndpointNotFound(NotFound):
    """There is no endpoint of this name or id."""

    code = "endpoint_not_found"


class Conflict(ControlPlaneError):
    """The request contradicts what is already true."""

    code = "conflict"


class LeaseLost(Conflict):
    """This attempt no longer holds the lease; nothing was changed. Stop working on it."""

    code = "lease_lost"


class AlreadyFinished(Conflict):
    """The execution has already finished."""

    code = "already_finished"


class InvalidState(Conflict):
    """The execution is not in a state in which this can be done."""

    code = "invalid_state"


class SessionClosed(Conflict):
    """This session has expired or was closed; open a new one."""

    code = "session_closed"


class SessionDraining(Conflict):
    """This process was asked to drain: it finishes what it runs and takes nothing new."""

    code = "session_draining"


class LengthMismatch(Conflict):
    """The list does not have the expected length."""

    code = "length_mismatch"


class NotAList(Conflict):
    """The stored value is not a list, so nothing can be appended to it."""

    code = "not_a_list"


class IdempotencyConflict(Conflict):
    """This idempotency key was used before with another request."""

    code = "idempotency_conflict"


class ApprovalAlreadyRequested(Conflict):
    """This attempt already waits for another approval."""

    code = "approval_already_requested"


class NodeInUse(Conflict):
    """The node cannot be forgotten while something needs it."""

    code = "node_in_use"


class ScheduleExists(Conflict):
    """There is another schedule of this name."""

    code = "schedule_exists"


class TriggerExists(Conflict):
    """There is another trigger of this name."""

    code = "trigger_exists"


class EndpointExists(Conflict):
    """There is another endpoint of this name."""

    code = "endpoint_exists"


class EndpointsFull(Conflict):
    """There are as many endpoints as there may be."""

    code = "endpoints_full"


class SignalsFull(Conflict):
    """Too many signals are kept that the execution has not waited for yet."""

    code = "signals_full"


class NamespaceExists(Conflict):
    """There is a namespace of this name already."""

    code = "namespace_exists"


class KeyReplaced(Conflict):
    """This key has a successor already; rotate or revoke that one."""

    code = "key_replaced"


class KeyRevoked(Conflict):
    """This key is revoked or has expired; make a new one."""

    code = "key_revoked"


class Refused(ControlPlaneError):
    """The request was refused."""

    code = "refused"


class Invalid(Refused):
    """The request is not valid."""

    code = "invalid"


class InvalidParameter(Refused):
    """A parameter is not valid, and AgentField's clients expect to hear so as a bad request."""

    code = "invalid_parameter"


class Malformed(Refused):
    """The body is not valid JSON."""

    code = "malformed_json"


class TooLarge(Refused):
    """The request is larger than the limit."""

    code = "too_large"


class TargetMalformed(Refused):
    """The target must have the form node_id.reasoner_name."""

    code = "target_malformed"


class EgressRefused(Refused):
    """The address may not be called from here."""

    code = "egress_refused"


class NoWebhook(Refused):
    """There is no webhook to send again."""

    code = "no_webhook"


class Unauthorized(Refused):
    """A valid API key is needed."""

    code = "unauthorized"


class NotItsNode(Refused):
    """The execution belongs to another node."""

    code = "execution_ownership_mismatch"


class NotHttp(Refused):
    """The request is not HTTP/1.1 as it is read here."""

    code = "not_http"


class HeadTooLarge(Refused):
    """The head of the request is larger than the limit."""

    code = "head_too_large"


class TooSlow(Refused):
    """The request took too long to arrive."""

    code = "too_slow"


class RateLimited(Refused):
    """Too many requests; wait a little."""

    code = "rate_limited"


class CapReached(Refused):
    """The namespace has as many of these as it may have."""

    code = "cap_reached"


class NamespaceFull(Refused):
    """The namespace has as much under way as it may have; there is room again by and by."""

    code = "namespace_full"


class ScopeMissing(Refused):
    """The API key is valid, but not for this."""

    code = "scope_missing"


class PagesReadOnly(Refused):
    """The dashboard of this server is read-only."""

    code = "pages_read_only"


class NodeNotAllowed(Refused):
    """The API key may not speak for this node."""

    code = "node_not_allowed"


class PayloadsHidden(Refused):
    """This would show payloads, and the API key is shown none."""

    code = "payloads_hidden"


class NamespaceNotAllowed(Refused):
    """Only keys of the namespace `default` may speak of others."""

    code = "namespace_not_allowed"


class Unavailable(ControlPlaneError):
    """Not possible right now; try again."""

    code = "unavailable"


class DatabaseUnavailable(Unavailable):
    """The database cannot be reached right now; try again."""

    code = "database_unavailable"


class DatabaseFull(DatabaseUnavailable):
    """The database has no space left for this, and nothing was changed; free some, then try again."""

    code = "database_full"


class ShuttingDown(Unavailable):
    """This server is shutting down; try again."""

    code = "shutting_down"


class WaitedTooLong(Unavailable):
    """The execution did not finish in the time waited for; it goes on."""

    code = "waited_too_long"


class TooManyConnections(Unavailable):
    """This server has as many connections as it may have; try again."""

    code = "too_many_connections"
