"""A node for the tests of stopping: it runs in a process of its own."""

import asyncio
import os
import time

from controlplane_sdk import Agent, Context

app = Agent(node_id="n", server=os.environ["SERVER"], heartbeat_seconds=1, drain_seconds=float(os.environ["DRAIN"]))


@app.reasoner
async def work(seconds: float, ctx: Context) -> str:
    ctx.note("begun")
    await asyncio.sleep(seconds)
    return "done"


@app.reasoner
def block(seconds: float, ctx: Context) -> str:
    ctx.note("begun")
    time.sleep(seconds)
    return "done"


@app.reasoner
async def swallow(ctx: Context) -> None:
    ctx.note("begun")
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            continue


if __name__ == "__main__":
    app.run()
