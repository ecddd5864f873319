"""What a run of the machine has done: it must not pass by doing nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import wraps
from typing import Any

from hypothesis.stateful import Rule


@dataclass(slots=True)
class Tally:
    """`rules`: how often each was drawn. `happened`: how often something that only a rule can bring about."""

    seed: int
    examples: int = 0
    rules: Counter[str] = field(default_factory=Counter)
    happened: Counter[str] = field(default_factory=Counter)

    @property
    def steps(self) -> int:
        return self.rules.total()

    def add(self, facts: dict[str, Any]) -> None:
        """What another run has done is done here, too."""
        self.examples += facts["examples"]
        self.rules += Counter(facts["rules"])
        self.happened += Counter(facts["happened"])

    def facts(self) -> dict[str, Any]:
        """All that is known, as JSON has it."""
        return {
            "seed": self.seed,
            "examples": self.examples,
            "steps": self.steps,
            "rules": dict(self.rules.most_common()),
            "happened": dict(sorted(self.happened.items())),
        }

    def __str__(self) -> str:
        rules = ", ".join(f"{name} {count}" for name, count in self.rules.most_common())
        happened = ", ".join(f"{name} {count}" for name, count in sorted(self.happened.items()))
        return f"seed {self.seed}: {self.examples} examples, {self.steps} steps\nrules: {rules}\nhappened: {happened}"


def counted(rule: Rule) -> Rule:
    """The rule, and a mark in the tally of its machine whenever it is drawn."""
    follow: Callable[..., None] = rule.function

    @wraps(follow)
    def count(machine: Any, **arguments: Any) -> None:
        machine.tally.rules[follow.__name__] += 1
        follow(machine, **arguments)

    return replace(rule, function=count)
