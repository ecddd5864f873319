"""Write reasoners for a controlplane, and call them."""

from controlplane_sdk import webhook
from controlplane_sdk.agent import Agent
from controlplane_sdk.client import Client, Event, Handle, Page
from controlplane_sdk.context import Context
from controlplane_sdk.errors import (
    AIUnavailable,
    AlreadyFinished,
    ControlPlaneError,
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
    Unauthorized,
)
from controlplane_sdk.executions import AttemptRecord, Execution, Explanation
from controlplane_sdk.limits import Limit
from controlplane_sdk.schedules import Schedule, Tick
from controlplane_sdk.version import VERSION

__version__ = VERSION

__all__ = [
    "AIUnavailable",
    "Agent",
    "AlreadyFinished",
    "AttemptRecord",
    "Client",
    "Context",
    "ControlPlaneError",
    "Event",
    "Execution",
    "ExecutionCancelled",
    "ExecutionError",
    "ExecutionFailed",
    "ExecutionTimeout",
    "Explanation",
    "Fatal",
    "Handle",
    "InvalidInput",
    "LeaseLost",
    "Limit",
    "MemoryConflict",
    "NotFound",
    "NotJson",
    "Page",
    "RequestRefused",
    "ResultInvalid",
    "Retryable",
    "Schedule",
    "ScopeMissing",
    "ServerError",
    "ServerUnavailable",
    "ServerUnreachable",
    "Tick",
    "Unauthorized",
    "__version__",
    "webhook",
]
