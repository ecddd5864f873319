"""What there is to be done in a run: the n-th piece of work follows from the seed, for callers and oracle alike."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

NODE = "chaos"
SIGNAL = "go"
SCHEDULE = "chaos-every-second"
SCHEDULED = "scheduled"
"""The name in the input of what the schedule submits."""
SECRET = "whsec_chaos"
RULE = {
    "name": SCHEDULE,
    "target": f"{NODE}.quick",
    "input": {"name": SCHEDULED},
    "interval_seconds": 1,
    "overlap": "queue",
}
ROOM = "items"
"""The key in a run's memory under which an execution keeps what it has done."""

KINDS = {
    "quick": 850,
    "items": 50,
    "slow": 40,
    "family": 15,
    "asks": 15,
    "sleeps": 10,
    "fails": 10,
    "endless": 10,
}
"""Of a thousand pieces so many. Most are trivial, so that there are many; those that take a while are hit by faults."""
ACTS = {"": 90, "repeat": 5, "cancel": 3, "pause": 2}
"""What else its caller does with a piece that takes a while: asks again under its key, cancels it, holds it back."""
TOLD_SHARE = 0.25
"""Of this share of them somebody is told by a webhook."""
DELAYED_SHARE = 0.05
"""This share of the trivial ones begins later than it is asked for."""
LINES = 4
AT_ONCE = 6
"""The slow ones stand in so many lines, of which so many each may run at once."""
TIMEOUT_SECONDS = 1.0
ENDS_AS = {"fails": "failed", "endless": "timeout"}
"""How a kind ends unless it is cancelled: the others succeed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """One submit. `how`: what else it asks for. `receiver`: which of them is to hear of its end, or None."""

    name: str
    kind: str
    input: dict[str, Any]
    act: str
    how: dict[str, Any]
    receiver: int | None

    @property
    def end(self) -> str:
        return ENDS_AS.get(self.kind, "succeeded")

    @property
    def target(self) -> str:
        return f"{NODE}.{self.kind}"

    def body(self, receivers: list[str]) -> dict[str, Any]:
        """What is submitted."""
        told = {} if self.receiver is None else {"webhook": {"url": receivers[self.receiver], "secret": SECRET}}
        return {"input": self.input, "idempotency_key": self.name} | self.how | told


def piece(seed: int, n: int, receivers: int) -> Piece:
    """The n-th piece of work of this seed."""
    rng = random.Random(f"{seed}:{n}")
    kind = rng.choices(list(KINDS), list(KINDS.values()))[0]
    act = rng.choices(list(ACTS), list(ACTS.values()))[0] if kind in {"items", "slow"} else ""
    name = f"{kind}-{seed}-{n}"
    input_: dict[str, Any] = {"name": name}
    how: dict[str, Any] = {}
    if kind == "items":
        input_ |= {"count": rng.randint(3, 20), "pause": round(rng.uniform(0.02, 0.2), 3)}
    if kind == "slow":
        input_ |= {"seconds": round(rng.uniform(0.5, 4.0), 2)}
        how = {"concurrency": {"key": f"line-{rng.randrange(LINES)}", "max": AT_ONCE}}
    if kind == "sleeps":
        input_ |= {"seconds": round(rng.uniform(1.1, 3.0), 2)}
    if kind == "endless":
        how = {"timeout_seconds": TIMEOUT_SECONDS}
    if kind == "quick":
        how = {"priority": rng.randint(-1, 1)}
        how |= {"delay_seconds": round(rng.uniform(0.0, 3.0), 2)} if rng.random() < DELAYED_SHARE else {}
    if kind == "family":
        input_ |= {"count": rng.randint(2, 4)}
    told = rng.randrange(receivers) if receivers and rng.random() < TOLD_SHARE else None
    return Piece(name=name, kind=kind, input=input_, act=act, how=how, receiver=told)


def trivial(name: str) -> Piece:
    """What a parent or a schedule asks for."""
    return Piece(name=name, kind="quick", input={"name": name}, act="", how={}, receiver=None)
