"""Pages that are made from the code, so that they cannot lie: settings, routes, retry delays, sentences, OpenAPI.

python -m tests.docs.generated      writes them anew (`make docs`)
"""

from __future__ import annotations

import json
from pathlib import Path

from controlplane import errors
from controlplane.api import openapi
from controlplane.api.problems import STATUS_OF
from controlplane.app import OPERATIONS
from controlplane.domain.delivery import backoff_seconds
from controlplane.domain.explain import Explanation, explain
from controlplane.domain.ids import show_execution
from controlplane.domain.retry import RetryPolicy, delay_seconds
from controlplane.domain.standing import AHEAD_MAX, FINISHES_LEAST
from controlplane.reads.explain import FINISHES_LOOK_MAX, FINISHES_SECONDS
from controlplane.settings import Settings
from tests.docs.performance import performance
from tests.docs.reliability import reliability
from tests.standings import CHILD_ID, ID, SAMPLES

ROOT = Path(__file__).parents[2]
HEAD = "<!-- Made from the code by `make docs`; a test compares. -->\n\n"


WAITS = """# Why does it wait?

Ask the execution.
Every unfinished one answers with one sentence, the cause as a stable word, since when it is so, the next step, and the facts behind it; one that has ended says how.

```bash
id=$(controlplane call batch.process_corpus items='["one", "two"]' --no-wait)
controlplane executions explain "$id"
controlplane executions attempts "$id" --tracebacks
curl -s "http://localhost:8080/api/v1/executions/$id/explain"
curl -s "http://localhost:8080/api/v1/executions/$id/attempts?limit=50"
```

In Python:

```python
import asyncio

from controlplane_sdk import Client


async def main() -> None:
    async with Client() as client:
        handle = await client.start("batch.process_corpus", items=["one", "two"])
        print((await handle.explain()).sentence)
        await handle.result(timeout=60)
        for one in await handle.attempts():
            print(one.attempt, one.ended, one.node_id, one.duration_ms)


asyncio.run(main())
```

The answer has the members `execution_id`, `status`, `code`, `sentence`, `since`, `fix` and `facts`; what is not known is left out.
Programs go by `code`; the sentence is for people and may gain words.
Everything in one answer is of one moment.

## The sentences

Each line below is what the code says of a sample execution of `n.echo`.

| code | sentence | next step |
|---|---|---|
"""  # noqa: E501 - one sentence per line

NUMBERS = f"""
## What is counted, and what is guessed

What stands before an execution is counted to {AHEAD_MAX:,}; beyond that the answer is "more than".
The estimate is made from what of the same target has finished lately: among the newest {FINISHES_LOOK_MAX:,} events, of at most {FINISHES_SECONDS / 60:g} minutes, and only if it is {FINISHES_LEAST} finishes or more.
More urgent work that is yet to come is not foreseen.

Of a node that is not there the moment is known at which its last process was gone: closed by itself, or not heard of for a whole lease.

## The attempts

`attempts` lists every try, the newest last, with `ended`: `running`, `succeeded`, `failed`, `retried` (it failed and another follows), `released` or `expired` (it was taken back, which costs no retry), `cancelled`, `timeout`.
Each has its node, session, times, and, of a failure, `error`, `error_class` and `traceback`.

## Pause and resume

`controlplane executions pause ID --reason "…"` holds an execution back and `resume ID` lets it go on; both are also `POST /api/v1/executions/{{id}}/pause` and `/resume`, and `handle.pause()` and `handle.resume()`.
An attempt that runs goes on to its end; what would run next waits.
The command line answers 5 when the execution has ended, is being cancelled, or is (or is not) paused already.
"""  # noqa: E501 - as above


def settings() -> str:
    rows = ["| variable | default | meaning |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        variable = "DATABASE_URL" if name == "database_url" else f"CONTROLPLANE_{name.upper()}"
        default = "" if field.default in (None, ()) else f"`{field.default}`"
        limits = ", ".join(
            f"{word} {getattr(rule, word):g}"
            for rule in field.metadata
            for word in ("ge", "gt", "le")
            if hasattr(rule, word)
        )
        rows.append(f"| `{variable}` | {default} | {field.description}{f' ({limits})' if limits else ''} |")
    intro = (
        "# Settings\n\nRead once from the environment when the server starts.\nUnits stand at the end of each name.\n\n"
    )
    return HEAD + intro + "\n".join(rows) + "\n"


def routes() -> str:
    parts = ["# HTTP\n\nEvery route, by what it is about.\nThe forms of the bodies are in `/openapi.json`.\n"]
    for tag in dict.fromkeys(one.tag for one in OPERATIONS):
        parts.append(f"\n## {tag.capitalize()}\n\n| route | what it does | answers |\n|---|---|---|\n")
        for one in OPERATIONS:
            if one.tag == tag:
                answers = " ".join(str(status) for status in sorted(one.answers))
                parts.append(f"| `{one.method} {one.path}` | {one.summary} | {answers} |\n")
    parts.append(
        "\n## Errors\n\nEvery refusal is problem+json (RFC 9457) with these codes.\n\n"
        "| status | code | meaning |\n|---|---|---|\n"
    )
    for kind, status in sorted(STATUS_OF.items(), key=lambda pair: (pair[1], pair[0].code)):
        if kind is not errors.ControlPlaneError:
            parts.append(f"| {status} | `{kind.code}` | {(kind.__doc__ or '').strip()} |\n")
    return HEAD + "".join(parts)


def delays() -> str:
    policy = RetryPolicy(retries_max=10)
    rows = [
        "# Delays\n\nSeconds before the next try, without the jitter that adds up to a fifth and never takes away.\n",
        "| after failure | an attempt (defaults) | a webhook |\n|---|---|---|",
    ]
    rows += [f"| {n} | {delay_seconds(policy, failures=n):g} | {backoff_seconds(n):g} |" for n in range(1, 9)]
    return HEAD + "\n".join(rows) + "\n\nA crash of a node is not a failure: its work is available again at once.\n"


def waits() -> str:
    return HEAD + WAITS + "".join(_waits(explain(one)) for one in SAMPLES.values()) + NUMBERS


def _waits(found: Explanation) -> str:
    row = f"| `{found.code}` | {found.sentence} | {found.fix or ''} |\n"
    return row.replace(show_execution(ID), "exec_…").replace(show_execution(CHILD_ID), "exec_…")


def document() -> str:
    return json.dumps(openapi.document(OPERATIONS), indent=1, sort_keys=True) + "\n"


PAGES = {
    "docs/reference/settings.md": settings,
    "docs/reference/http.md": routes,
    "docs/reference/delays.md": delays,
    "docs/howto/why-does-it-wait.md": waits,
    "docs/performance.md": performance,
    "docs/reliability.md": reliability,
    "sdk/conformance/openapi.json": document,
}


def main() -> None:
    for path, make in PAGES.items():
        (ROOT / path).write_text(make())


if __name__ == "__main__":
    main()
