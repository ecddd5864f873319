"""The founding example as it was published: its lines without their indentation, which was lost on the way.

The first line of each block is where it begins, and a line that was glued to the prose behind it is cut there.
"""

from __future__ import annotations

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
