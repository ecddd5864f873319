import asyncio
import os

from agentfield import Agent
from agentfield.logger import log_info

app = Agent(node_id="batch", agentfield_server=os.getenv("AGENTFIELD_SERVER"))


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

        # Checkpoint every step so a crash loses at most one item.
        await app.memory.set("results", results)
        await app.memory.set("done", i + 1)
        log_info(f"processed {i + 1}/{total}")
        await asyncio.sleep(0)  # yield; real work goes here

    return {"processed": total, "results": results}


if __name__ == "__main__":
    app.run()
