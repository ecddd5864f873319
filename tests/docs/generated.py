"""Pages that are made from the code, so that they cannot lie: settings, routes, retry delays, the OpenAPI document.

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
from controlplane.domain.retry import RetryPolicy, delay_seconds
from controlplane.settings import Settings

ROOT = Path(__file__).parents[2]
HEAD = "<!-- Made from the code by `make docs`; a test compares. -->\n\n"


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


def document() -> str:
    return json.dumps(openapi.document(OPERATIONS), indent=1, sort_keys=True) + "\n"


PAGES = {
    "docs/reference/settings.md": settings,
    "docs/reference/http.md": routes,
    "docs/reference/delays.md": delays,
    "sdk/conformance/openapi.json": document,
}


def main() -> None:
    for path, make in PAGES.items():
        (ROOT / path).write_text(make())


if __name__ == "__main__":
    main()
