"""Write reasoners for a controlplane, and call them."""

from controlplane_sdk import webhook
from controlplane_sdk.agent import Agent
from controlplane_sdk.audit import AuditRow
from controlplane_sdk.bulk import Bulk, BulkCount
from controlplane_sdk.client import Client, Event, Handle, Page
from controlplane_sdk.context import Context
from controlplane_sdk.deliveries import Delivery
from controlplane_sdk.durable import Decision, Suspended
from controlplane_sdk.endpoints import Endpoint, EndpointTest
from controlplane_sdk.errors import (
    AIUnavailable,
    AlreadyFinished,
    ControlPlaneError,
    EventTimedOut,
    ExecutionCancelled,
    ExecutionError,
    ExecutionFailed,
    ExecutionTimeout,
    Fatal,
    InvalidInput,
    LeaseLost,
    MemoryConflict,
    NotFound,
    NotJson,
    RequestRefused,
    ResultInvalid,
    Retryable,
    ScopeMissing,
    ServerError,
    ServerUnavailable,
    ServerUnreachable,
    StepChanged,
    Unauthorized,
)
from controlplane_sdk.executions import AttemptRecord, Execution, Explanation, Retention
from controlplane_sdk.keys import Key, Namespace, NewKey
from controlplane_sdk.limits import Limit
from controlplane_sdk.pauses import Drain, Pause, Paused
from controlplane_sdk.runs import Run, RunMember
from controlplane_sdk.schedules import Schedule, Tick
from controlplane_sdk.signals import Approval, Signal
from controlplane_sdk.steps import Step
from controlplane_sdk.system import HotTable, Pin, Standby, System
from controlplane_sdk.triggers import Trigger, TriggerEvent
from controlplane_sdk.version import VERSION

__version__ = VERSION

__all__ = [
    "AIUnavailable",
    "Agent",
    "AlreadyFinished",
    "Approval",
    "AttemptRecord",
    "AuditRow",
    "Bulk",
    "BulkCount",
    "Client",
    "Context",
    "ControlPlaneError",
    "Decision",
    "Delivery",
    "Drain",
    "Endpoint",
    "EndpointTest",
    "Event",
    "EventTimedOut",
    "Execution",
    "ExecutionCancelled",
    "ExecutionError",
    "ExecutionFailed",
    "ExecutionTimeout",
    "Explanation",
    "Fatal",
    "Handle",
    "HotTable",
    "InvalidInput",
    "Key",
    "LeaseLost",
    "Limit",
    "MemoryConflict",
    "Namespace",
    "NewKey",
    "NotFound",
    "NotJson",
    "Page",
    "Pause",
    "Paused",
    "Pin",
    "RequestRefused",
    "ResultInvalid",
    "Retention",
    "Retryable",
    "Run",
    "RunMember",
    "Schedule",
    "ScopeMissing",
    "ServerError",
    "ServerUnavailable",
    "ServerUnreachable",
    "Signal",
    "Standby",
    "Step",
    "StepChanged",
    "Suspended",
    "System",
    "Tick",
    "Trigger",
    "TriggerEvent",
    "Unauthorized",
    "__version__",
    "webhook",
]
