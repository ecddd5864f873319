"""What the façades call things."""

from __future__ import annotations

import pytest

from controlplane.domain.execution import Status, Wording
from controlplane.domain.facade import (
    CANCELLING,
    HEAD_BYTES,
    JOB_OF,
    STATUSES_OF,
    TASK_OF,
    JobStatus,
    job_input,
    job_status,
    percent,
    type_of,
)


@pytest.mark.parametrize(
    ("status", "reason", "failures", "begun", "word"),
    [
        (Status.QUEUED, None, 0, False, "pending"),
        (Status.QUEUED, None, 1, True, "retrying"),
        (Status.RUNNING, None, 0, True, "running"),
        (Status.RUNNING, CANCELLING, 0, True, "cancelled"),
        (Status.WAITING, "paused", 0, False, "pending"),
        (Status.WAITING, None, 0, True, "running"),
        (Status.SUCCEEDED, None, 0, True, "completed"),
        (Status.FAILED, None, 1, True, "failed"),
        (Status.TIMEOUT, "total", 0, True, "failed"),
        (Status.CANCELLED, "cancelled", 0, True, "cancelled"),
    ],
)
def test_a_job_has_one_of_six_words(status: Status, reason: str | None, failures: int, begun: bool, word: str) -> None:
    """Each state has its word, and a list by that word looks among the executions of that state."""
    said = job_status(status, reason=reason, failures=failures, begun=begun)

    assert said == word
    assert status in STATUSES_OF[said]


def test_every_word_is_mapped() -> None:
    """No end and no job is without its word."""
    assert set(JOB_OF) == {status for status in Status if status.final}
    assert set(TASK_OF) == set(STATUSES_OF) == set(JobStatus)


@pytest.mark.parametrize("type_", ["run_tests", 'a "quoted" \\ one', "\U0001f600" * 200, "ü" * 200])
def test_the_type_is_found_in_the_first_bytes(type_: str) -> None:
    """However long the parameters are, and wherever they are cut."""
    input_ = job_input(type_, b'{"text":"' + "€".encode() * 2_000 + b'"}')

    assert type_of(input_[:HEAD_BYTES]) == type_


@pytest.mark.parametrize("head", [b"", b"{}", b'{"type":7}', b'{"type":"cut', b'{"params":{},"type":"x"}', b'{"type":'])
def test_what_somebody_else_submitted_has_no_type(head: bytes) -> None:
    """An execution of the same target need not have been a job."""
    assert type_of(head) is None


@pytest.mark.parametrize(
    ("progress", "said"), [(None, None), ({"done": 3}, None), ({"fraction": 0.466}, 47), ({"fraction": 1}, 100)]
)
def test_progress_is_a_percentage(progress: dict[str, object] | None, said: int | None) -> None:
    """Only what is a part of a whole is one."""
    assert percent(progress) == said


@pytest.mark.parametrize(
    ("n", "wording"), [(1, Wording.EXECUTION), (999, Wording.EXECUTION), (1_001, Wording.TASK), (2_001, Wording.JOB)]
)
def test_the_number_of_a_webhook_says_its_wording(n: int, wording: Wording) -> None:
    """A thousand of each."""
    assert Wording.of(n) is wording


def test_an_unknown_number_speaks_our_words() -> None:
    """What a newer version wrote must not keep an end from ending."""
    assert Wording.of(32_000) is Wording.EXECUTION
