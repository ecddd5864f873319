"""Runs Spin over the models of this folder, whole and without one guard at a time.

What a model leaves out, and what must then break, stands at its head (`guard NAME: module.CONSTANT `text` -> rule`):
here it is read, so that a guard that is written down is a guard that is tried.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
MODELS = ("claim", "deliver")
MARK = re.compile(
    r"^ +(guard|wall) (\w+): (\w+)\.(\w+) `([^`]+)`(?: with ([A-Z0-9 ]+))?(?: behind (\w+))? -> (\w+)$", re.MULTILINE
)
STATES = re.compile(r"^ *(\d[\d.e+]*) states, stored", re.MULTILINE)
BROKEN = re.compile(r"BROKEN (\w+)")
DEPTH_MAX = 1_000_000
MEMORY_MEGABYTES = 16_000
OPTIONS = ("-DSAFETY", "-DCOLLAPSE", f"-DMEMLIM={MEMORY_MEGABYTES}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A guard of the product, where it stands, and the rule that breaks without it.

    `front`: the guard that stands before this one; without this one alone, nothing breaks. `world`: the numbers
    that the rule needs to break, where they are not those of all.
    """

    name: str
    module: str
    where: str
    text: str
    rule: str
    front: str | None
    world: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """How a search ended: how many states were seen, and the rule that broke with the story of how, if one did."""

    states: int
    broken: str | None
    story: str


def text_of(model: str) -> str:
    return (HERE / f"{model}.pml").read_text()


def marks(model: str) -> list[Mark]:
    """The guards that a model says it is made of."""
    return [
        Mark(
            name=found[2],
            module=found[3],
            where=found[4],
            text=found[5],
            world=dict(zip(found[6].split()[::2], found[6].split()[1::2], strict=True)) if found[6] else {},
            front=found[7],
            rule=found[8],
        )
        for found in MARK.finditer(text_of(model))
    ]


def search(model: str, folder: Path, *, optimise: bool = False, **settings: str | int) -> Verdict:
    """Look at every state that a model can come to, until a rule breaks.

    `settings`: WITHOUT, ALSO and IGNORED name guards and rules, the others are the numbers at the head of the model.
    """
    defined = [f"-D{name}={value}" for name, value in settings.items()]
    source = str(HERE / f"{model}.pml")
    _run(folder, "spin", "-a", *defined, source)
    # Where a rule breaks the search is over at once, and to compile is most of the work.
    _run(folder, "gcc", "-O2" if optimise else "-O0", "-w", *OPTIONS, "-o", "pan", "pan.c")
    said = _run(folder, "./pan", f"-m{DEPTH_MAX}", "-w22")
    if "errors: 0" in said and "Search not completed" not in said and "max search depth too small" not in said:
        return Verdict(states=_states(said), broken=None, story="")
    trail = folder / f"{model}.pml.trail"
    if not trail.exists():
        raise RuntimeError(f"The search over {model} ended without a result:\n{said}")
    story = _run(folder, "spin", "-t", "-T", "-B", "-k", str(trail), *defined, source)
    broken = BROKEN.search(story)
    return Verdict(states=_states(said), broken=broken[1] if broken else "stuck", story=story)


def _states(said: str) -> int:
    found = STATES.search(said)
    return int(float(found[1])) if found else 0


def _run(folder: Path, *command: str) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode < 0 or (command[0] == "gcc" and done.returncode):
        raise RuntimeError(f"{' '.join(command)}: {done.stdout}{done.stderr}")
    return done.stdout
