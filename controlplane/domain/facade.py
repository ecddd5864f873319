"""The words of two published texts, `/jobs` and `/agent`, for what an execution is (docs/howto/seed-facades.md).

Those texts were written for programs of their own. What is here says the same about an execution of ours.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from enum import StrEnum

from controlplane.domain.execution import Status, Wording
from controlplane.domain.ids import show_execution
from controlplane.domain.notice import Notice, error_text, notice_body, text

CANCELLING = "cancelling"
"""The `status_reason` of an attempt that shall stop: whatever it says, it ends as cancelled."""

HEAD = b'{"type":'
HEAD_BYTES = 1_024
"""So much of a job's input holds its type: at most 200 characters, which come first."""


class JobStatus(StrEnum):
    PENDING = "pending"
    RUNNING = "running"
    RETRYING = "retrying"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        return self in (JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED)


class TaskStatus(StrEnum):
    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"


JOB_OF = {
    Status.SUCCEEDED: JobStatus.COMPLETED,
    Status.FAILED: JobStatus.FAILED,
    Status.TIMEOUT: JobStatus.FAILED,
    Status.CANCELLED: JobStatus.CANCELLED,
}
TASK_OF = {
    JobStatus.PENDING: TaskStatus.PENDING,
    JobStatus.RETRYING: TaskStatus.PENDING,
    JobStatus.RUNNING: TaskStatus.RUNNING,
    JobStatus.COMPLETED: TaskStatus.COMPLETED,
    JobStatus.FAILED: TaskStatus.FAILED,
    JobStatus.CANCELLED: TaskStatus.FAILED,
}
STATUSES_OF = {
    JobStatus.PENDING: (Status.QUEUED, Status.WAITING),
    JobStatus.RETRYING: (Status.QUEUED,),
    JobStatus.RUNNING: (Status.RUNNING, Status.WAITING),
    JobStatus.COMPLETED: (Status.SUCCEEDED,),
    JobStatus.FAILED: (Status.FAILED, Status.TIMEOUT),
    JobStatus.CANCELLED: (Status.CANCELLED, Status.RUNNING),
}
"""What a job of this status may be to us; `job_status` decides."""


def job_status(status: Status, *, reason: str | None, failures: int, begun: bool) -> JobStatus:
    """The job's word. What can only end as cancelled is cancelled; what waits in the middle of its work is running."""
    if status.final:
        return JOB_OF[status]
    if reason == CANCELLING:
        return JobStatus.CANCELLED
    if status is Status.QUEUED:
        return JobStatus.RETRYING if failures else JobStatus.PENDING
    return JobStatus.RUNNING if begun else JobStatus.PENDING


def percent(progress: Mapping[str, object] | None) -> int | None:
    """From 0 to 100, when the work has said how far it is."""
    fraction = None if progress is None else progress.get("fraction")
    return round(fraction * 100) if isinstance(fraction, int | float) else None


def job_input(type_: str, params: bytes) -> bytes:
    """What the reasoner behind `/jobs` is given; the type stands first, where `type_of` finds it."""
    return HEAD + json.dumps(type_, ensure_ascii=False).encode() + b',"params":' + params + b"}"


def type_of(head: bytes) -> str | None:
    """The type in the first bytes of an input, unless somebody else made it."""
    if not head.startswith(HEAD):
        return None
    try:
        type_, _ = json.JSONDecoder().raw_decode(head[len(HEAD) :].decode(errors="ignore"))
    except ValueError:
        return None
    return type_ if isinstance(type_, str) else None


def body_of(notice: Notice, wording: Wording) -> bytes:
    """The JSON bytes that a webhook sends, in the words that its caller speaks."""
    return BODIES[wording](notice)


def _task_body(notice: Notice) -> bytes:
    end = notice.settlement
    id_ = text(show_execution(end.held.id))
    if end.status is Status.SUCCEEDED:
        return b'{"task_id":%b,"status":"completed","result":%b}' % (id_, end.result or b"null")
    return b'{"task_id":%b,"status":"failed","error":%b}' % (id_, text(error_text(end.error)))


def _job_body(notice: Notice) -> bytes:
    end = notice.settlement
    said = (end.result or b"null") if end.status is Status.SUCCEEDED else text(error_text(end.error))
    return b'{"job_id":%b,"status":%b,"result":%b}' % (
        text(show_execution(end.held.id)),
        text(JOB_OF[end.status].value),
        said,
    )


BODIES: dict[Wording, Callable[[Notice], bytes]] = {
    Wording.EXECUTION: notice_body,
    Wording.TASK: _task_body,
    Wording.JOB: _job_body,
}
