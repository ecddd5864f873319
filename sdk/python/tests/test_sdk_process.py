"""Real processes: the article's agent, and what SIGTERM does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.fixture(params=["uvloop", "asyncio"])
def start(double, request, tmp_path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """On either loop: uvloop is an extra that is here, and hidden for the other."""
    started: list[subprocess.Popen[str]] = []
    if request.param == "asyncio":
        (tmp_path / "uvloop.py").write_text("raise ImportError")

    def run(script: str, **env: str) -> subprocess.Popen[str]:
        path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
        known = {"AGENTFIELD_SERVER": double.url, "SERVER": double.url, "DRAIN": "10", "PYTHONPATH": path}
        process = subprocess.Popen(
            [sys.executable, str(HERE / script)], env=os.environ | known | env, stderr=subprocess.PIPE, text=True
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def test_the_article_runs_unchanged_but_for_its_imports(double, start):
    """The seed's agent resumes from its checkpoint, summarises with a model, checkpoints and reports progress."""
    double.memory["run", "run_1", "done"] = 1
    double.memory["run", "run_1", "results"] = [{"item": 0, "summary": "before"}]
    process = start("seed_agent.py", OPENAI_BASE_URL=double.url + "/v1", OPENAI_API_KEY="any")
    fence = double.offer("batch.process_corpus", {"items": ["a", "b", "c"]})

    double.wait_until(lambda: fence in double.reports, 30)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=20)

    assert process.returncode == 0
    assert [one["summary"] for one in double.reports[fence]["result"]["results"]] == [
        "before",
        "summary of b",
        "summary of c",
    ]
    assert double.memory["run", "run_1", "done"] == 3
    assert [line["message"] for line in double.lines] == ["processed 2/3", "processed 3/3"]
    assert (double.progress[-1]["done"], double.progress[-1]["total"]) == (3, 3)
    assert "processed 3/3" in stderr


def test_sigterm_lets_running_work_finish(double, start):
    """A drain takes no new work, waits for what runs, reports it, closes the session and exits with 0."""
    process = start("stubborn_agent.py")
    fences = [double.offer("n.work", {"seconds": 1}), double.offer("n.block", {"seconds": 1})]
    double.wait_until(lambda: len(double.notes) == 2, 20)

    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)

    assert process.returncode == 0
    assert [double.reports[fence]["result"] for fence in fences] == ["done", "done"]
    assert double.closed == {"ses_1"}


def test_sigterm_hands_back_what_does_not_finish(double, start):
    """After drain_seconds the rest is released, also what blocks a thread or swallows its cancellation."""
    process = start("stubborn_agent.py", DRAIN="0.2")
    fences = [
        double.offer("n.work", {"seconds": 60}),
        double.offer("n.block", {"seconds": 60}),
        double.offer("n.swallow"),
    ]
    double.wait_until(lambda: len(double.notes) == 3, 20)

    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)

    assert process.returncode == 0
    assert [double.reports[fence]["status"] for fence in fences] == ["released"] * 3
    assert double.closed == {"ses_1"}


def test_a_second_signal_closes_at_once(double, start):
    """Whoever asks twice does not wait: the session is closed, and the control plane takes everything back."""
    process = start("stubborn_agent.py", DRAIN="60")
    double.offer("n.work", {"seconds": 60})
    double.wait_until(lambda: double.notes, 20)
    began = time.monotonic()

    process.send_signal(signal.SIGTERM)
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)

    assert process.returncode == 0
    assert time.monotonic() - began < 10
    assert double.closed == {"ses_1"}
    assert not double.reports


def test_slots_come_from_the_environment(double, start):
    """CONTROLPLANE_NODE_SLOTS overrules what the program says."""
    start("stubborn_agent.py", CONTROLPLANE_NODE_SLOTS="7")

    double.wait_until(lambda: double.said("/lease"), 20)

    assert double.said("/sessions")[0]["slots"] == 7
    assert double.said("/lease")[0]["max"] == 7
