"""The machine, with people: an attempt asks them and waits; they decide, or nobody does in time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from controlplane.domain.approval import Decision
from controlplane.domain.lease import Fence
from controlplane.errors import (
    AlreadyFinished,
    ApprovalAlreadyRequested,
    ControlPlaneError,
    InvalidState,
    LeaseLost,
    NoApprovalRequest,
)
from controlplane.stages import approve
from controlplane.stages.approve import Question
from tests.make import NAMESPACE, make_id
from tests.property import model as tiny
from tests.property.control import Control
from tests.property.machine import pick

APPROVALS = """
select execution_id, request_id, status, attempt,
  floor(extract(epoch from expires_at - $2) / 1000)::int * 1000 as expires
from approvals
where bucket = $1
"""
questions = st.sampled_from(["q1", "q2"])
decisions = st.sampled_from([one for one in Decision if one not in (Decision.PENDING, Decision.EXPIRED)])
REFUSALS = (AlreadyFinished, ApprovalAlreadyRequested, InvalidState, LeaseLost, NoApprovalRequest)


class People(Control):
    looks: ClassVar[Mapping[str, str]] = {**Control.looks, "approvals": APPROVALS}

    @precondition(lambda self: self.fences)
    @rule(n=pick, question=questions)
    def ask_people(self, n: int, question: str) -> None:
        """By whoever ever held a lease; again, or something else."""
        self.ask_as(self.fence(n), question)

    def ask_as(self, fence: Fence, question: str) -> None:
        expected = self.model.ask(fence, question)
        asked = Question(
            execution_id=fence.execution_id,
            attempt=fence.attempt,
            namespace=NAMESPACE,
            request_id=question,
            url=None,
            callback_url=None,
            expires_seconds=float(tiny.APPROVAL_SECONDS),
        )
        answer: str
        try:
            answer = self.do(approve.ask(self.conn, asked, make_id=make_id)).status.value
        except REFUSALS as refused:
            answer = refused.code
        assert answer == expected

    @precondition(lambda self: self.model.approvals())
    @rule(n=pick, question=st.one_of(st.none(), questions), decision=decisions)
    def decide(self, n: int, question: str | None, decision: Decision) -> None:
        """What an execution waits for, or what it asked some time; the first word counts."""
        asked = [id_ for id_, _ in self.model.approvals()]
        id_ = self.same(lambda: asked[-1 - n % len(asked)])
        expected = self.model.decide(self.model.executions[id_], question, decision.value)
        where = {"namespace": NAMESPACE, "request_id": question, "feedback": None, "response": None}
        answer: tuple[str, bool]
        try:
            said = self.do(approve.decide(self.conn, id_, decision=decision, make_id=make_id, **where))
            answer = (said.approval.status.value, said.processed)
        except ControlPlaneError as refused:
            answer = (refused.code, False)
        assert answer == expected

    @rule()
    def nobody_decides(self) -> None:
        self.model.expire_approvals()
        self.do(approve.expire_due(self.conn, self.bucket, make_id=make_id))

    @rule(question=questions, seconds=st.sampled_from([0, *tiny.MOVES]), decision=decisions, crash=st.booleans())
    def ask_and_wait(self, question: str, seconds: int, decision: Decision, crash: bool) -> None:
        """People decide in time or late, while the process that asked lives, or when it is gone."""
        self.begin_work(webhooks=False, retries=0)
        fence = self.fence(0)
        self.ask_as(fence, question)
        if crash:
            self.a_process_dies()
        self.time_passes(seconds)
        if seconds:
            self.nobody_decides()
        if self.model.approvals():
            self.decide(0, question, decision)
        self.ask_as(self.fence(0), question)

    @invariant()
    def what_was_asked_is_kept(self) -> None:
        """Who was asked what, by which attempt, and what they said: it is decided once."""
        assert {row[:2]: row[2:] for row in self.look("approvals")} == {
            (id_, one.question): (one.status, one.attempt, one.expires) for id_, one in self.model.approvals()
        }
