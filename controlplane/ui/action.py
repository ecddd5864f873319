"""Actions: what a button does, which is one call of the API, and how the same is said elsewhere."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from controlplane.domain.key import Caller, KeyScope, wanting


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One field of an action's form: a member of the body, an option of the command and an argument of the call.

    `kind`: text, number, moment, json (any JSON), words (several, each an option of the command), flag (true, or it is
    not said), path (a part of the path), or word (a member of the body that is an argument by position elsewhere, as a
    path is). `choices` make a list of it, to say nothing means the first of them; of words they make boxes. `whole`: it
    is the body.
    """

    name: str
    label: str
    kind: str = "text"
    option: str = ""
    value: str = ""
    choices: Sequence[str] = ()
    required: bool = False
    whole: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """`path` from the root on; `{name}` in it is an entry. `python`: the call of the SDK; `{}` in it is the arguments.

    `goes_to`: the page that is shown next, `{name}` in it a member of the answer; else the same again.
    `once`: the member of the answer that is a secret: shown until the dialog closes, and nowhere else.
    `off`: why it cannot be done now.
    """

    name: str
    label: str
    path: str
    cli: str
    python: str
    says: str = ""
    method: str = "POST"
    body: Mapping[str, Any] = field(default_factory=dict)
    entries: Sequence[Entry] = ()
    goes_to: str = ""
    once: str = ""
    danger: bool = False
    off: str | None = None

    @property
    def sent(self) -> str:
        """What of the body is always the same."""
        return json.dumps(dict(self.body)) if self.body else ""

    @property
    def form(self) -> str:
        """The entries, for the script that makes a request and its copies of the form."""
        return json.dumps(
            [{"name": one.name, "kind": one.kind, "option": one.option, "whole": one.whole} for one in self.entries]
        )


HOLDS_BACK = "Nothing of it is handed out until it is resumed; what runs goes on."
EXECUTION = "executions/{execution_id}"
REASON = Entry(name="reason", label="Why (optional)", option="--reason")


def turn(
    verbs: tuple[str, str],
    of: str,
    path: str,
    elsewhere: Callable[[str], tuple[str, str]],
    *,
    back: bool,
    says: str = "",
    entries: Sequence[Entry] = (REASON,),
    off: str | None,
) -> Action:
    """One of two verbs, of which the second takes the first `back` and asks for nothing.

    `elsewhere`: the command and the call of the SDK for a verb.
    """
    verb = verbs[back]
    cli, python = elsewhere(verb)
    return Action(
        name=f"{verb}-{of}",
        label=verb.capitalize(),
        path=f"{path}/{verb}",
        says="" if back else says,
        cli=cli,
        python=python,
        entries=() if back else entries,
        off=off,
    )


def command(*words: str) -> str:
    """A command line whose words a shell takes as they are."""
    return shlex.join(["controlplane", *words])


def not_allowed(caller: Caller, any_of: frozenset[KeyScope]) -> str | None:
    """Why this key may not, in words; None when it may."""
    return None if caller.may(any_of) else f"Your key may not: this needs the scope {wanting(any_of)}."
