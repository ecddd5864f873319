"""Whose points the stories pass: all of the stages and daemons, but for those that another suite kills."""

from __future__ import annotations

from pathlib import Path

import controlplane

PACKAGE = Path(controlplane.__file__).parent

ELSEWHERE = {
    "controlplane.daemons.dispatcher": "it calls receivers, and is killed between real ones",
    "controlplane.daemons.overseer": "it calls nodes, and is killed between real ones",
    "controlplane.daemons.pusher": "it calls nodes, and is killed between real ones; what it writes is in stages.send",
    "controlplane.daemons.verifier": "it looks, and writes down what it saw; the next look begins anew",
    "controlplane.daemons.loop": "it waits, and awaits ticks whose own first and last points are killed here",
}

MODULES = tuple(
    name
    for room in ("stages", "daemons")
    for path in sorted((PACKAGE / room).glob("*.py"))
    if (name := f"controlplane.{room}.{path.stem}") not in ELSEWHERE and path.stem != "__init__"
)

EXCEPTIONS = {
    "stages.open_namespace:open_namespace#3": "only where two make a namespace at one moment, or there are 10,000: a "
    "look that changes nothing",
    "stages.count:take_turn#1": "of the verifier, one statement",
    "stages.count:violations#1": "of the verifier, one statement",
    "stages.signal:send#4 after": "only where a signal is repeated under its key after the end: a look",
}
"""Points that no story passes, or one side of them, and why that is no loss."""
