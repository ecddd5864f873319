"""Nothing that was done is done again, and nobody is held while nothing is to do: steps, and waits without a slot."""

import asyncio
import os
from pathlib import Path

from controlplane_sdk import Agent, Context

app = Agent(node_id="steps", slots=1, heartbeat_seconds=1)  # one slot: who waits must not hold it


def note(line: str) -> None:
    """What this process really did, for whoever wants to count."""
    if file := os.environ.get("DEMO_CALLS_FILE"):
        with Path(file).open("a") as calls:
            calls.write(line + "\n")


async def summarise(text: str) -> str:
    await asyncio.sleep(0.05)  # a model takes its time
    note(text)
    words = text.split()
    return f"{len(words)} words, from {words[0]} to {words[-1]}"


def build(version: str) -> dict:
    note(f"build {version}")
    return {"image": f"app:{version}"}


async def deploy(image: str) -> str:
    note(f"deploy {image}")
    return f"{image} is live"


@app.reasoner
async def process_corpus(ctx: Context, items: list[str]) -> dict:
    """The loop of examples/batch without a line about where it had got to."""
    return {"results": [await ctx.step(summarise, item) for item in items]}


@app.reasoner
async def release(ctx: Context, version: str) -> dict:
    """Each wait ends the attempt; the next one runs this from the top, and finds what is done."""
    image = (await ctx.step(build, version))["image"]
    decision = await ctx.approve(f"Deploy {image}?", expires=24 * 3600)
    if not decision.approved:
        return {"released": False, "why": decision.feedback}
    await ctx.sleep(2)  # let the caches expire
    window = await ctx.wait_for_event("deploy.window", timeout=7 * 24 * 3600)
    said = await ctx.step(deploy, image)
    return {"released": True, "said": said, "window": window, "attempts": ctx.attempt}


@app.reasoner
async def read_aloud(text: str) -> int:
    await asyncio.sleep(0.01)
    return len(text)


@app.reasoner
async def measure_all(items: list[str]) -> dict:
    """A child for each item; while they run this waits without a process."""
    lengths = await read_aloud.map(items)
    return {"characters": sum(lengths)}


if __name__ == "__main__":
    app.run()
