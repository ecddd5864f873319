"""What the two founding texts behind the façades print of clients and workers, with the indentation that print lost.

Nothing is changed in them; whoever runs one replaces `http://localhost:8000` by the address of a server.
"""

from __future__ import annotations

POLLING_CLIENT = '''
import httpx
import asyncio

async def run_agent_with_polling(prompt: str, poll_interval: float = 1.0):
    """Submit task and poll until complete."""

    async with httpx.AsyncClient() as client:
        # Submit task
        response = await client.post(
            "http://localhost:8000/agent/submit",
            json={"prompt": prompt}
        )
        task_id = response.json()["task_id"]
        print(f"Task submitted: {task_id}")

        # Poll for completion
        while True:
            status_response = await client.get(
                f"http://localhost:8000/agent/status/{task_id}"
            )
            status = status_response.json()

            print(f"Status: {status['status']}, Progress: {status.get('progress', 0)}%")

            if status["status"] == "completed":
                return status["result"]
            elif status["status"] == "failed":
                raise Exception(status.get("error", "Unknown error"))

            await asyncio.sleep(poll_interval)

# Usage
result = asyncio.run(run_agent_with_polling("Analyze this document"))
print(f"Result: {result}")
'''

WORKER = '''
import subprocess
import traceback

class Worker:
    def __init__(self, queue: JobQueue):
        self.queue = queue
        self.handlers = {
            "run_tests": self.run_tests,
            "build": self.build,
            "deploy": self.deploy,
            "refactor": self.refactor,
        }

    def run_tests(self, params: dict) -> str:
        """Run test suite"""
        cmd = params.get("command", "npm test")
        timeout = params.get("timeout", 600)  # 10 min default

        result = subprocess.run(
            cmd,
            shell=True,
            capture_output=True,
            text=True,
            timeout=timeout
        )

        return f"Exit code: {result.returncode}\\n\\nOutput:\\n{result.stdout}\\n\\nErrors:\\n{result.stderr}"

    def build(self, params: dict) -> str:
        """Build project"""
        cmd = params.get("command", "npm run build")
        result = subprocess.run(cmd, shell=True, capture_output=True, text=True)
        return result.stdout + result.stderr

    def deploy(self, params: dict) -> str:
        """Deploy to environment"""
        # Your deployment logic
        pass

    def refactor(self, params: dict) -> str:
        """Run large refactor"""
        # Your refactor logic
        pass
'''
"""Without its loop over Redis and `process_job`, which are what the server and a node do."""

AGENT_WITH_BACKGROUND_JOBS = """
class AgentWithBackgroundJobs:
    def __init__(self, llm, queue: JobQueue):
        self.llm = llm
        self.queue = queue
        self.tools = self.build_tools()

    def build_tools(self):
        return [
            {
                "type": "function",
                "function": {
                    "name": "run_tests_background",
                    "description": "Run test suite in background. Returns job ID for tracking.",
                    "parameters": {
                        "type": "object",
                        "properties": {
                            "command": {
                                "type": "string",
                                "description": "Test command (default: npm test)"
                            }
                        }
                    }
                }
            },
            {
                "type": "function",
                "function": {
                    "name": "check_job_status",
                    "description": "Check status of a background job",
                    "parameters": {
                        "type": "object",
                        "properties": {
                            "job_id": {"type": "string"}
                        },
                        "required": ["job_id"]
                    }
                }
            }
        ]

    def execute_tool(self, name: str, args: dict) -> str:
        if name == "run_tests_background":
            job_id = self.queue.enqueue("run_tests", args)
            return f"Tests started. Job ID: {job_id}\\n\\nUse check_job_status to monitor progress."

        if name == "check_job_status":
            status = self.queue.get_status(args["job_id"])

            if not status:
                return "Job not found"

            response = f"Status: {status.get('status', 'unknown')}"

            if status.get("result"):
                response += f"\\n\\nResult:\\n{status['result']}"

            return response

        return "Unknown tool"
"""

PROGRESS = """
tracker.update(0, "Starting tests...")
# discover tests
tracker.update(10, "Found 47 tests")
# run tests
tracker.update(50, "Running tests... 23/47")
"""
