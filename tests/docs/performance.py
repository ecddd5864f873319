"""docs/performance.md: what the benches of the last long run have measured, with what did not hold in plain sight.

The runs are files in docs/performance, one of each bench, as its option `--json` keeps them (`bench/record.py`):

    make bench-full                                                   ->  one file of each
    make bench-latency ARGS="--json docs/performance/latency.json"    ->  latency.json
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

HEAD = "<!-- Made by `make docs` from docs/performance; a test compares. -->\n\n"
FOLDER = Path(__file__).parents[2] / "docs/performance"
OURS = "controlplane"
RATE = "per second"
Told = Mapping[str, Any]

INTRO = """# What it does in a second

Every figure below was measured by a script in `bench/` that anybody can run: [measure it yourself](howto/benchmarks.md).
The load, the server, the nodes and PostgreSQL share one machine, with `fsync` and `synchronous_commit` on, unless a line says otherwise.
A figure is the median of its rounds, with the lowest and the highest beside it.
Figures of another machine will differ; the ratios inside one run say more than any of them.
A bar is a number that was set before the run, and a bar that was not met stays here until it is.
"""  # noqa: E501 - one sentence per line
NOTHING_YET = "No run has been kept yet: `make bench-full` keeps one of each bench.\n"
ALL_MET = "Every bar was met.\n"
NOBODY_AHEAD = "In none of the figures that are compared.\n"
WORDS = {True: "met", False: "**NOT met**", None: "not known"}


def performance(folder: Path = FOLDER) -> str:
    """The whole page."""
    runs = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    if not runs:
        return "\n".join([HEAD + INTRO, NOTHING_YET])
    lines = [HEAD + INTRO, *_verdicts(runs), *_ahead(runs)]
    for told in runs:
        lines += _part(told)
    return "\n".join(lines).rstrip() + "\n"


def _verdicts(runs: Sequence[Told]) -> Iterator[str]:
    """The bars that do not hold, first of all and of all runs."""
    yield "## What was not reached\n"
    broken = [(told, bar) for told in runs for bar in told["bars"] if bar["met"] is not True]
    count = sum(len(told["bars"]) for told in runs)
    if not broken:
        yield ALL_MET
        return
    yield f"Of {count} bars {count - len(broken)} were met; these were not, or could not be measured.\n"
    yield "| bar | found | wanted | |"
    yield "|---|---|---|---|"
    for told, bar in broken:
        yield f"| [{told['title']}](#{_anchor(told['title'])}): {_cells(bar)} |"
    yield ""


def _ahead(runs: Sequence[Told]) -> Iterator[str]:
    """Who does more per second than ours in the same run; from the figures, not from what anybody says."""
    rows = [row for told in runs for row in _faster(told)]
    if not any(_compared(told) for told in runs):
        return
    yield "## Where another is ahead\n"
    if not rows:
        yield NOBODY_AHEAD
        return
    yield "| what | who | theirs | ours | theirs to ours |"
    yield "|---|---|---|---|---|"
    yield from rows
    yield ""


def _compared(told: Told) -> list[tuple[str, str]]:
    """The figures of others that ours stands beside: `who: what`."""
    pairs = [tuple(name.split(": ", 1)) for name in told["figures"] if ": " in name]
    return [(who, what) for who, what in pairs if who != OURS and f"{OURS}: {what}" in told["figures"]]


def _faster(told: Told) -> Iterator[str]:
    figures = told["figures"]
    for who, what in _compared(told):
        theirs, ours = figures[f"{who}: {what}"], figures[f"{OURS}: {what}"]
        if theirs["unit"] == RATE and theirs["median"] > ours["median"]:
            times = theirs["median"] / ours["median"]
            yield f"| {what} | {who} | {_shown(theirs['median'])} | {_shown(ours['median'])} | {times:.2f} |"


def _part(told: Told) -> Iterator[str]:
    """One run of one bench."""
    machine = told["machine"]
    memory = "" if machine.get("memory_mb") is None else f", {machine['memory_mb'] / 1024:.0f} GB of memory"
    yield f"## {told['title']}\n"
    yield f"{told['what']}\n"
    yield f"- repeat it: `{told['command']}`"
    yield f"- on: {machine['cores']} cores{memory}, {machine['system']}"
    yield f"- versions: {_listed(told['versions'])}"
    yield f"- settings: {_listed(told['settings'])}\n"
    if told["figures"]:
        yield "| what | median | lowest to highest | unit | rounds |"
        yield "|---|---|---|---|---|"
        for name, one in told["figures"].items():
            spread = f"{_shown(one['low'])} to {_shown(one['high'])}"
            yield f"| {_cell(name)} | {_shown(one['median'])} | {spread} | {_cell(one['unit'])} | {one['rounds']} |"
        yield ""
    if told["bars"]:
        yield "| bar | found | wanted | |"
        yield "|---|---|---|---|"
        for bar in told["bars"]:
            yield f"| {_cells(bar)} |"
        yield ""
    if told["notes"]:
        for note in told["notes"]:
            yield f"- {' '.join(note.split())}"
        yield ""


def _cells(bar: Told) -> str:
    wanted = [f"{word} {bar[key]:g}" for key, word in (("at_least", "at least"), ("at_most", "at most")) if key in bar]
    found = "not measured" if bar["found"] is None else _shown(bar["found"])
    return f"{_cell(bar['says'])} | {found} | {' and '.join(wanted)} | {WORDS[bar['met']]}"


def _listed(facts: Told) -> str:
    """Names and values in one line, those of a map inside as well."""
    parts = []
    for name, value in facts.items():
        inside = isinstance(value, Mapping)
        shown = f"({_listed(value)})" if inside else ", ".join(map(str, value)) if isinstance(value, list) else value
        parts.append(f"{name.replace('_', ' ')} {shown}")
    return _cell(", ".join(parts)) or "none"


def _cell(text: str) -> str:
    """As it stands in a table: a bar in it would end the cell."""
    return " ".join(text.split()).replace("|", "\\|")


def _anchor(title: str) -> str:
    """As GitHub makes it from a heading."""
    kept = "".join(sign for sign in title.lower() if sign.isalnum() or sign in " -_")
    return kept.replace(" ", "-")


def _shown(number: float) -> str:
    return f"{number:,.0f}" if abs(number) >= 100 else f"{number:,.3g}"
