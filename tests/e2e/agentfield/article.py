"""The article's agent, as it was published and as it runs on the SDK, and how its work is asked for.

As published it fails inside SDK 0.1.144, before a server hears of it: the SDK's default model has no provider in its
name and is refused by the SDK, and `app.ai` answers an object that `app.memory.set` cannot write as JSON. So callers
name the model, and one expression of the agent is `summary.text` instead of `summary`.
"""

from __future__ import annotations

from pathlib import Path

from tests.e2e import seed

ARTICLE = (Path(__file__).parent / "article_agent.py").read_text()
BATCH = ARTICLE.replace('"summary": summary}', '"summary": summary.text}')
MODEL = "openai/gpt-4o"
FIRE = seed.FIRE.replace('"input": {', f'"input": {{"model": "{MODEL}", ')
