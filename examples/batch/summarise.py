"""The model behind `app.ai` in this example, and a record of every call to it.

With OPENAI_API_KEY (and OPENAI_BASE_URL for another server) it is a real language model. Without one it is a small
extractive summariser: it picks the three sentences whose words occur most often in the text, and says so.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
from collections import Counter
from pathlib import Path
from typing import Any

from controlplane_sdk.ai import AI

OFFLINE = "OPENAI_API_KEY" not in os.environ
# A model takes its time, and the story needs some to kill things in.
PACE_SECONDS = float(os.environ.get("DEMO_PACE_SECONDS", "0"))
CALLS_FILE = os.environ.get("DEMO_CALLS_FILE")
SENTENCE = re.compile(r"(?<=[.!?])\s+|\n\s*\n")
WORD = re.compile(r"[a-z]{4,}")

_model = AI()


async def summarise(*, system: str | None, user: str | None, model: str | None, **_: Any) -> str:
    text = user or ""
    if CALLS_FILE:
        with Path(CALLS_FILE).open("a") as calls:
            calls.write(hashlib.sha256(text.encode()).hexdigest() + "\n")
    if not OFFLINE:
        return await _model(text, system=system, model=model)
    await asyncio.sleep(PACE_SECONDS)
    return "[offline, extractive] " + extract(text)


def extract(text: str, *, sentences: int = 3) -> str:
    """The sentences that say most of what the text is about, in their order."""
    found = [" ".join(sentence.split()) for sentence in SENTENCE.split(text) if sentence.strip()]
    weight = Counter(WORD.findall(text.lower()))

    def score(sentence: str) -> float:
        words = WORD.findall(sentence.lower())
        return sum(weight[word] for word in words) / (len(words) + 5)

    best = sorted(range(len(found)), key=lambda n: score(found[n]), reverse=True)[:sentences]
    return " ".join(found[n] for n in sorted(best))
