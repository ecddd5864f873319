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

KINDS = {"quick": 860, "items": 50, "slow": 40, "family": 20, "asks": 15, "fails": 15}
"""Of a thousand pieces so many. Most are trivial, so that there are many; those that take a while are hit by faults."""
ACTS = {"": 90, "repeat": 5, "cancel": 3, "pause": 2}
"""What else its caller does with a piece that takes a while: asks again under its key, cancels it, holds it back."""
TOLD_SHARE = 0.4
"""Of this share of them somebody is told by a webhook."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """One submit. `receiver`: the number of the receiver that is to hear of its end, or None."""

    name: str
    kind: str
    input: dict[str, Any]
    act: str
    receiver: int | None

    @property
    def target(self) -> str:
        return f"{NODE}.{self.kind}"

    def body(self, receivers: list[str]) -> dict[str, Any]:
        """What is submitted. A failure is tried once more."""
        told = {} if self.receiver is None else {"webhook": {"url": receivers[self.receiver], "secret": SECRET}}
        return {"input": self.input, "idempotency_key": self.name} | told


def piece(seed: int, n: int, receivers: int) -> Piece:
    """The n-th piece of work of this seed."""
    rng = random.Random(f"{seed}:{n}")
    kind = rng.choices(list(KINDS), list(KINDS.values()))[0]
    act = rng.choices(list(ACTS), list(ACTS.values()))[0] if kind in {"items", "slow"} else ""
    name = f"{kind}-{seed}-{n}"
    input_: dict[str, Any] = {"name": name}
    if kind == "items":
        input_ |= {"count": rng.randint(3, 20), "pause": round(rng.uniform(0.02, 0.2), 3)}
    if kind == "slow":
        input_ |= {"seconds": round(rng.uniform(0.5, 4.0), 2)}
    if kind == "family":
        input_ |= {"count": rng.randint(2, 4)}
    told = rng.randrange(receivers) if receivers and rng.random() < TOLD_SHARE else None
    return Piece(name=name, kind=kind, input=input_, act=act, receiver=told)
