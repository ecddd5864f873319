"""The founding example as it was published: its lines without their indentation, which was lost on the way.

The first line of each block is where it begins, and a line that was glued to the prose behind it is cut there.
"""

from __future__ import annotations

import json
import subprocess
from typing import Any

from tests.e2e.processes import Plane

AGENT = """
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
await asyncio.sleep(0) # yield; real work goes here
return {"processed": total, "results": results}
if __name__ == "__main__":
app.run()
"""

RECEIVER = """
import hashlib
import hmac
SECRET = b"whsec_your_signing_secret"
def verify(raw_body: bytes, signature_header: str) -> bool:
expected = "sha256=" + hmac.new(SECRET, raw_body, hashlib.sha256).hexdigest()
return hmac.compare_digest(expected, signature_header)
# In any handler that gives you the raw body and headers:
def handle(raw_body: bytes, headers: dict) -> tuple[int, str]:
sig = headers.get("X-AgentField-Signature", "")
if not verify(raw_body, sig):
return 401, "bad signature"
import json
payload = json.loads(raw_body)
if payload["event"] == "execution.completed":
result = payload["result"]
# ... store it, notify a user, kick off the next step
elif payload["event"] == "execution.failed":
err = payload.get("error_message")
# ... alert, requeue, whatever your ops need
return 200, "ok"
"""

FIRE = r"""
curl -s -X POST http://localhost:8080/api/v1/execute/async/batch.process_corpus \
-H "Content-Type: application/json" \
-d '{
"input": {"items": ["doc one text", "doc two text", "..."]},
"webhook": {
"url": "https://your-app.com/hooks/agentfield",
"secret": "whsec_your_signing_secret"
}
}'
# => {"execution_id": "exec_7b21...", "status": "queued", "webhook_registered": true}
"""

WATCH = """
curl -N http://localhost:8080/api/ui/v1/executions/events
# data: {"type": "connected"}
# data: {"type": "execution_started", "execution_id": "exec_7b21..."}
# data: {"type": "heartbeat"}
# data: {"type": "execution_completed", "execution_id": "exec_7b21...", ...}
"""

VERIFY_FIRE = r"""
curl -s -X POST http://localhost:8080/api/v1/execute/async/batch.process_corpus \
-H "Content-Type: application/json" \
-d '{"input": {"items": ["a", "b", "c"]}, "webhook": {"url": "https://your-app.com/hook", "secret": "whsec_x"}}'
# => {"execution_id": "exec_7b21...", "status": "queued", "webhook_registered": true}
"""

VERIFY_POLL = """
curl -s http://localhost:8080/api/v1/executions/exec_7b21...
# => {"status": "running", "started_at": "...", "duration_ms": 5100}
# ... later ...
# => {"status": "succeeded", "result": {"processed": 3, ...}, "completed_at": "..."}
"""


def shell(script: str, plane: Plane, url: str = "") -> Any:
    """What these lines print when they are pasted into a terminal, with this server's port and this receiver."""
    done = subprocess.run(["bash", "-c", addressed(script, plane, url)], capture_output=True, timeout=20, check=True)
    return json.loads(done.stdout)


def addressed(script: str, plane: Plane, url: str) -> str:
    for published in ("https://your-app.com/hooks/agentfield", "https://your-app.com/hook"):
        script = script.replace(f'"{published}"', f'"{url}"')
    return script.replace("localhost:8080", f"localhost:{plane.port}")


def written(text: str) -> list[str]:
    """The lines without indentation, runs of spaces, empty lines, and what is said to the linter."""
    lines = (" ".join(line.split()) for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("# ruff:")]


def summaries(*items: str) -> dict[str, Any]:
    """What the agent makes of the model's answers."""
    asked = "Summarize this document in three sentences."
    results = [{"item": n, "summary": f"{asked} {text}"} for n, text in enumerate(items)]
    return {"processed": len(items), "results": results}
