"""The founding agent: summarise a corpus, checkpoint after every item, resume where a crash left off."""

import asyncio
import os

from summarise import summarise

from controlplane_sdk import Agent
from controlplane_sdk.logger import log_info

app = Agent(node_id="batch", agentfield_server=os.getenv("AGENTFIELD_SERVER"), ai=summarise, heartbeat_seconds=1)


@app.reasoner(tags=["entry"])
async def process_corpus(items: list[str], model: str | None = None) -> dict:
    total = len(items)
    done = await app.memory.get("done", default=0)
    results: list[dict] = await app.memory.get("results", default=[])

    # Resume from wherever the last run left off.
    for i in range(done, total):
        summary = await app.ai(
            system="Summarize this document in three sentences.",
            user=items[i],
            model=model,
        )
        results.append({"item": i, "summary": summary})

        # Checkpoint every step so a crash loses at most one item. Both keys are one checkpoint: a crash between two
        # writes would leave a result that `done` does not count, and the item would stand in the list twice.
        await app.memory.set_many({"results": results, "done": i + 1})

        log_info(f"processed {i + 1}/{total}")
        await asyncio.sleep(0)  # yield; real work goes here

    return {"processed": total, "results": results}


if __name__ == "__main__":
    app.run()
