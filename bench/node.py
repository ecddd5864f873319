"""A node with a trivial reasoner: everything that is measured is ours."""

from __future__ import annotations

import logging
import os

from controlplane_sdk import Agent

logging.disable(logging.INFO)
app = Agent(node_id="bench", server=os.environ["CONTROLPLANE_SERVER"], slots=512)


@app.reasoner()
async def echo(text: str) -> dict[str, str]:
    return {"text": text}


if __name__ == "__main__":
    app.run()
