"""A node with reasoners that do nothing but say when, and write their memory: everything that is measured is ours."""

from __future__ import annotations

import logging
import os
import time

from controlplane_sdk import Agent

logging.disable(logging.INFO)
app = Agent(node_id="bench", server=os.environ["CONTROLPLANE_SERVER"], slots=512)


@app.reasoner()
async def echo(text: str) -> dict[str, str]:
    return {"text": text}


@app.reasoner()
async def mark(number: int, text: str) -> dict[str, object]:
    """When it began, by the clock that this machine's processes and its database share."""
    return {"number": number, "began": time.time(), "text": text}


@app.reasoner()
async def sets(count: int) -> dict[str, object]:
    """Store so many values, each when the one before is durable; the moments before the first and after each."""
    moments = [time.time()]
    for number in range(count):
        await app.memory.set(f"key {number % 10}", {"number": number, "text": "x" * 180})
        moments.append(time.time())
    return {"moments": moments}


@app.reasoner()
async def grow(count: int) -> dict[str, object]:
    """A list that gains one element at a time, and is stored each time."""
    results: list[dict[str, object]] = []
    began = time.process_time()
    for number in range(count):
        results.append({"number": number, "length": number % 100})
        await app.memory.set("results", results)
    return {"processor_seconds": time.process_time() - began}


if __name__ == "__main__":
    app.run()
