"""A stand-in for the control plane: speaks its wire protocol over real HTTP, remembers what it heard, can misbehave.

It runs on an event loop in a thread of its own, so that a blocked loop of the node under test does not block it.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

Fence = tuple[str, int]
TIMES = ["2030-01-01T09:00:00Z", "2030-01-02T09:00:00Z"]


class Double:
    def __init__(self) -> None:
        self.heard: list[tuple[str, str, dict[str, str], Any]] = []
        self.registrations: list[dict[str, Any]] = []
        self.sessions: dict[str, str] = {}
        self.closed: set[str] = set()
        self.queue: deque[dict[str, Any]] = deque()
        self.beats: list[tuple[float, dict[str, Any]]] = []
        self.idle_wait_seconds: float | None = None
        """For how long it says that it holds the beats of who holds nothing; None: it is too old to say so."""
        self.cancels: dict[Fence, str | None] = {}
        self.lost: set[Fence] = set()
        """Leases that are taken away, and not yet told of; and those that are told of, and stay so."""
        self._gone: set[Fence] = set()
        self.reports: dict[Fence, dict[str, Any]] = {}
        self.lines: list[dict[str, Any]] = []
        self.progress: list[dict[str, Any]] = []
        self.notes: list[tuple[str, dict[str, Any]]] = []
        self.memory: dict[tuple[str, str, str], Any] = {}
        self.versions: Counter[tuple[str, str, str]] = Counter()
        self.runs: dict[str, str] = {}
        self.executions: dict[str, dict[str, Any]] = {}
        self.started_keys: dict[str, str] = {}
        self.steps: dict[str, dict[str, dict[str, Any]]] = {}
        self.signals: dict[str, list[tuple[str, Any]]] = {}
        self.decisions: dict[str, dict[str, Any]] = {}
        self.past: dict[str, list[dict[str, Any]]] = {}
        self.schedules: dict[str, dict[str, Any]] = {}
        self.triggers: dict[str, dict[str, Any]] = {}
        self.endpoints: dict[str, dict[str, Any]] = {}
        self.frames: dict[str, list[tuple[str, dict[str, Any]]]] = {}
        self.refuse: dict[str, Callable[[Any], Response | None]] = {}
        self.says = ""
        self.misbehave: deque[tuple[str, str]] = deque()
        self._changed = threading.Condition()
        self._wake = asyncio.Event()
        routes = [
            ("POST", "/nodes/register", self.register),
            ("POST", "/nodes/{id}/sessions", self.open),
            ("POST", "/sessions/{id}/lease", self.lease),
            ("POST", "/sessions/{id}/heartbeat", self.heartbeat),
            ("POST", "/sessions/{id}/results", self.results),
            ("POST", "/sessions/{id}/logs", self.logs),
            ("POST", "/sessions/{id}/close", self.close),
            ("POST", "/memory/get", self.memory_get),
            ("POST", "/memory/write", self.memory_write),
            ("GET", "/memory/list", self.memory_list),
            ("POST", "/executions/note", self.note),
            ("POST", "/execute/async/{target}", self.execute),
            ("GET", "/executions/{id}", self.execution),
            ("GET", "/executions", self.list_executions),
            ("POST", "/executions/{id}/cancel", self.cancel),
            ("POST", "/execute/batch", self.batch),
            ("POST", "/executions/batch-status", self.batch_status),
            ("POST", "/steps/write", self.steps_write),
            ("GET", "/executions/{id}/steps", self.steps_list),
            ("POST", "/executions/{id}/signals/{event}", self.signal),
            ("GET", "/executions/{id}/approval-status", self.approval),
            ("POST", "/executions/{id}/approval-response", self.decide),
            ("POST", "/executions/{id}/pause", self.pause),
            ("POST", "/executions/{id}/resume", self.resume),
            ("GET", "/executions/{id}/explain", self.explain),
            ("GET", "/executions/{id}/attempts", self.attempts),
            ("POST", "/executions/{id}/restart", self.restart),
            ("POST", "/executions/{id}/retry", self.restart),
            ("GET", "/executions/{id}/events", self.events),
            ("GET", "/pauses", self.pauses),
            ("POST", "/schedules", self.schedule),
            ("GET", "/schedules", self.schedule),
            ("PUT", "/schedules/{name}", self.schedule),
            ("GET", "/schedules/{name}", self.schedule),
            ("DELETE", "/schedules/{name}", self.schedule),
            ("DELETE", "/nodes/{name}", self.forget_node),
            ("GET", "/schedules/{name}/{what}", self.schedule),
            ("POST", "/schedules/{name}/{what}", self.schedule),
            ("POST", "/endpoints", self.endpoint),
            ("GET", "/endpoints", self.endpoint),
            ("GET", "/endpoints/{name}", self.endpoint),
            ("PATCH", "/endpoints/{name}", self.endpoint),
            ("DELETE", "/endpoints/{name}", self.endpoint),
            ("POST", "/endpoints/{name}/{what}", self.endpoint),
            ("POST", "/triggers", self.trigger),
            ("GET", "/triggers", self.trigger),
            ("GET", "/triggers/{name}", self.trigger),
            ("PATCH", "/triggers/{name}", self.trigger),
            ("POST", "/triggers/{name}/{what}", self.trigger),
            ("POST", "/triggers/{name}/events/{id}/{what}", self.trigger),
            ("POST", "/{verb}", self.hold),
            ("POST", "/{kind}/{name}/{verb}", self.hold),
        ]
        doors = [Route("/api/v1" + path, self._hear(call), methods=[method]) for method, path, call in routes]
        app = Starlette(routes=[*doors, Route("/v1/chat/completions", self._hear(self.model), methods=["POST"])])
        config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", timeout_graceful_shutdown=1)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)

    # What a test does with it.

    def __enter__(self) -> Double:
        self._thread.start()
        while not self._server.started:
            time.sleep(0.005)
        port = self._server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(10)

    async def until(self, fact: Callable[[], Any], seconds: float = 10) -> Any:
        """Return the fact as soon as it is true; fail after `seconds`."""
        return await asyncio.to_thread(self.wait_until, fact, seconds)

    def wait_until(self, fact: Callable[[], Any], seconds: float = 10) -> Any:
        with self._changed:
            assert self._changed.wait_for(fact, seconds), "it did not happen"
            return fact()

    def offer(self, target: str, arguments: Any = None, *, run: str = "run_1", attempt: int = 1, **more: Any) -> Fence:
        """Put an attempt into the queue."""
        execution_id = more.pop("execution_id", f"exec_{len(self.runs) + 1}")
        self.runs[execution_id] = run
        lease = {"execution_id": execution_id, "attempt": attempt, "target": target, "reasoner": target.split(".")[1]}
        lease |= {"type": "reasoner", "run_id": run, "root_execution_id": execution_id, "parent_execution_id": None}
        lease |= {
            "session_key": None,
            "actor_key": None,
            "input": {} if arguments is None else arguments,
            "failures": 0,
        }
        lease |= {"steps": len(self.steps.get(execution_id, {}))}
        self.queue.append(lease | {"created_at": "2030-01-01T00:00:00Z", "timeout_seconds": None} | more)
        self._notify()
        return execution_id, attempt

    async def report(self, fence: Fence, seconds: float = 10) -> dict[str, Any]:
        return await self.until(lambda: self.reports.get(fence), seconds)

    def said(self, path: str) -> list[Any]:
        """The bodies of all requests to paths that end so."""
        return [body for _, where, _, body in list(self.heard) if where.endswith(path)]

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()
        if self._server.started:
            self._loop.call_soon_threadsafe(self._wake.set)

    @property
    def _loop(self) -> asyncio.AbstractEventLoop:
        return self._server.servers[0].get_loop()

    # What a node or a caller says to it.

    def _hear(self, call: Callable[[Request, Any], Any]) -> Callable[[Request], Any]:
        async def endpoint(request: Request) -> Response:
            raw = await request.body()
            body = json.loads(raw) if raw else None
            path = request.url.path.removeprefix("/api/v1")
            self.heard.append((request.method, path, dict(request.headers), body))
            self._notify()
            how = None
            if self.misbehave and path.endswith(self.misbehave[0][0]):
                how = self.misbehave.popleft()[1]
            if how == "503":
                return Response(status_code=503)
            refusal = self.refuse.get(path.rsplit("/", 1)[-1])
            if refusal and (response := refusal(body)) is not None:
                return response
            response = await call(request, body)
            self._notify()
            return Response(status_code=502) if how == "lose the answer" else response

        return endpoint

    async def register(self, request: Request, body: Any) -> Response:
        self.registrations.append(body)
        return JSONResponse({"id": body["id"], "status": "registered", "reasoners": len(body["reasoners"])}, 201)

    async def open(self, request: Request, body: Any) -> Response:
        if not self.registrations:
            return problem(404, "node_not_found")
        session_id = f"ses_{len(self.sessions) + 1}"
        self.sessions[session_id] = request.path_params["id"]
        said = {"session_id": session_id, "lease_seconds": 30, "heartbeat_seconds": body["heartbeat_seconds"]}
        return JSONResponse(said | {"node_id": request.path_params["id"], "expires_in_seconds": 30}, 201)

    async def lease(self, request: Request, body: Any) -> Response:
        session_id = request.path_params["id"]
        deadline = time.monotonic() + body["wait_seconds"]
        while session_id not in self.closed:
            leases = [self.queue.popleft() for _ in range(min(body["max"], len(self.queue)))]
            left = deadline - time.monotonic()
            if leases or left <= 0 or await request.is_disconnected():
                return JSONResponse({"leases": leases})
            await self._wait(min(left, 0.2))
        return problem(409, "session_closed")

    async def heartbeat(self, request: Request, body: Any) -> Response:
        session_id = request.path_params["id"]
        if session_id in self.closed:
            return problem(409, "session_closed")
        self.beats.append((time.monotonic(), body))
        self._notify()
        deadline = time.monotonic() + body["wait_seconds"]
        while not (self._to_cancel() or self.lost) and (left := deadline - time.monotonic()) > 0:
            if session_id in self.closed:
                return problem(409, "session_closed")
            await self._wait(min(left, 0.2))
        lost, self.lost = self.lost, set()
        self._gone |= lost
        said = {"expires_in_seconds": 30, "draining": False, "lost": [named(fence) for fence in lost]}
        if self.idle_wait_seconds is not None:
            said["idle_wait_seconds"] = self.idle_wait_seconds
        return JSONResponse(said | {"cancel": [named(fence) | {"reason": None} for fence in self._to_cancel()]})

    def _to_cancel(self) -> list[Fence]:
        return [fence for fence in self.cancels if fence not in self.reports]

    async def results(self, request: Request, body: Any) -> Response:
        answers = []
        for item in body["results"]:
            fence = (item["execution_id"], item["attempt"])
            code = "already_recorded" if fence in self.reports else "recorded"
            self.reports.setdefault(fence, item)
            answers.append(named(fence) | {"http_status": 200, "code": code, "status": item["status"]})
        return JSONResponse({"results": answers})

    async def logs(self, request: Request, body: Any) -> Response:
        self.lines += body["entries"]
        self.progress += body["progress"]
        return JSONResponse({"accepted": len(body["entries"]), "dropped": 0, "lost": []}, 202)

    async def close(self, request: Request, body: Any) -> Response:
        self.closed.add(request.path_params["id"])
        return JSONResponse({"released": 0})

    async def note(self, request: Request, body: Any) -> Response:
        self.notes.append((request.headers["x-execution-id"], body))
        return JSONResponse({"success": True})

    async def memory_get(self, request: Request, body: Any) -> Response:
        place = self._place(body, None)
        if place not in self.memory:
            return problem(404, "memory_not_found")
        return JSONResponse({"key": body["key"], "data": self.memory[place], "version": self.versions[place]})

    async def memory_list(self, request: Request, body: Any) -> Response:
        asked = request.query_params
        rows = [
            {"key": key, "data": value, "version": self.versions[scope, owner, key], "updated_at": ""}
            for (scope, owner, key), value in sorted(self.memory.items())
            if (scope, owner) == (asked["scope"], asked.get("scope_id", ""))
            and key.startswith(asked["prefix"])
            and key > asked.get("after", "")
        ]
        return JSONResponse(rows[: int(asked["limit"])])

    async def memory_write(self, request: Request, body: Any) -> Response:
        results = [self._write(group) for group in body["writes"]]
        if len(results) == 1 and results[0]["http_status"] != 200:
            return problem(results[0]["http_status"], results[0]["code"], length=results[0].get("length"))
        return JSONResponse({"results": results})

    def _write(self, group: dict[str, Any]) -> dict[str, Any]:
        fence = (group.get("execution_id"), group.get("attempt"))
        if fence[0] and (fence in self.lost | self._gone or fence in self.reports):
            return {"http_status": 409, "code": "lease_lost"}
        kept, changed, versions = dict(self.memory), Counter(self.versions), []
        for op in group["ops"]:
            place = self._place(op, fence[0])
            if op["op"] == "append":
                found = kept.get(place, [])
                expected = op.get("expected_length")
                if expected == len(found):
                    kept[place] = found + op["items"]
                elif found[expected:] == op["items"]:
                    changed[place] -= 1  # the repeat of an append whose answer was lost
                else:
                    return {"http_status": 409, "code": "length_mismatch", "length": len(found)}
            elif op["op"] == "set":
                kept[place] = op["value"]
            else:
                kept.pop(place, None)
            changed[place] += 1
            length = len(kept[place]) if isinstance(kept.get(place), list) else None
            versions.append({"key": op["key"], "version": changed[place], "length": length})
        self.memory, self.versions = kept, changed
        return {"http_status": 200, "code": "committed", "versions": versions}

    def _place(self, said: dict[str, Any], execution_id: str | None) -> tuple[str, str, str]:
        own = "" if said["scope"] == "global" else self.runs.get(execution_id or "", "")
        return said["scope"], said.get("scope_id") or own, said["key"]

    async def execute(self, request: Request, body: Any) -> Response:
        assert ("idempotency-key" in request.headers) != ("step" in body), "one of them"
        key, run_id = request.headers.get("idempotency-key", ""), request.headers.get("x-run-id", "run_new")
        execution_id = self._child(request, body, key, f"exec_child_{len(self.executions) + 1}")
        shape = {"execution_id": execution_id, "run_id": run_id, "status": "queued"}
        self.executions.setdefault(execution_id, shape | {"target": request.path_params["target"]})
        return JSONResponse(shape | {"webhook_registered": bool(body.get("webhook"))}, 202)

    async def batch(self, request: Request, body: Any) -> Response:
        key, run_id = request.headers["idempotency-key"], request.headers.get("x-run-id", "run_new")
        items: list[dict[str, Any]] = []
        for n, item in enumerate(body["items"]):
            if item["target"] == "n.nobody":
                items.append({"http_status": 404, "code": "target_not_found", "message": "no such target"})
                continue
            execution_id = self._child(request, item, f"{key}.{n}", f"exec_{key}_{n}")
            shape = {"execution_id": execution_id, "run_id": run_id, "status": "queued", "target": item["target"]}
            self.executions.setdefault(execution_id, shape)
            items.append(shape | {"http_status": 202})
        return JSONResponse({"run_id": run_id, "items": items})

    def _child(self, request: Request, said: dict[str, Any], key: str, execution_id: str) -> str:
        """A new execution, or the one that this key or this step of the parent has become already."""
        if not said.get("step"):
            return self.started_keys.setdefault(key, execution_id)
        parent, _, attempt = request.headers["x-parent-execution-id"].partition("~")
        steps = self.steps.setdefault(parent, {})
        known = steps.get(said["step"])
        if known and (self.executions[known["child_id"]]["status"] != "failed" or known["attempt"] == int(attempt)):
            return str(known["child_id"])
        fresh = {"name": said["step"], "kind": "call", "status": "pending", "value": None, "attempt": int(attempt)}
        steps[said["step"]] = fresh | {"child_id": execution_id, "input": said["input"]}
        return execution_id

    async def batch_status(self, request: Request, body: Any) -> Response:
        missing = {"status": "not_found"}
        return JSONResponse(
            {id_: {"execution_id": id_} | self.executions.get(id_, missing) for id_ in body["execution_ids"]}
        )

    async def steps_write(self, request: Request, body: Any) -> Response:
        results = [self._write_steps(group) for group in body["writes"]]
        if len(results) == 1 and results[0]["http_status"] != 200:
            return problem(results[0]["http_status"], results[0]["code"])
        return JSONResponse({"results": results})

    def _write_steps(self, group: dict[str, Any]) -> dict[str, Any]:
        execution_id, fence = group["execution_id"], (group["execution_id"], group["attempt"])
        if fence in self.lost | self._gone or fence in self.reports:
            return {"http_status": 409, "code": "lease_lost"}
        steps = self.steps.setdefault(execution_id, {})
        for op in group["ops"]:
            kind = "step" if op["op"] == "done" else op["op"]
            fresh = op | {"kind": kind, "status": "pending", "value": None, "attempt": group["attempt"]}
            if kind == "step":
                fresh |= {"status": "done", "value": op["value"]}
            lasts = op.get("seconds") if kind == "sleep" else op.get("timeout_seconds")
            step = steps.setdefault(op["name"], fresh | {"due": None if lasts is None else time.monotonic() + lasts})
            self._turn_step(execution_id, step)
        return {"http_status": 200, "steps": [_shown_step(steps[op["name"]]) for op in group["ops"]]}

    def _turn_step(self, execution_id: str, step: dict[str, Any]) -> None:
        """What has come meanwhile ends a step that waits for it."""
        kept = self.signals.setdefault(execution_id, [])
        found = next((one for one in kept if one[0] == step.get("event")), None)
        if step["status"] != "pending":
            return
        if step["kind"] == "approval" and execution_id in self.decisions:
            step |= {"status": "done", "value": self.decisions[execution_id]}
        elif step["kind"] == "event" and found:
            kept.remove(found)
            step |= {"status": "done", "value": found[1], "timed_out": False}
        elif step.get("due") is not None and time.monotonic() >= step["due"]:
            step |= {"status": "done", "timed_out": step["kind"] == "event"}

    async def steps_list(self, request: Request, body: Any) -> Response:
        steps = list(self.steps.get(request.path_params["id"], {}).values())
        after, limit = int(request.query_params.get("after", 0)), min(200, int(request.query_params["limit"]))
        page = [_shown_step(one) for one in steps[after : after + limit]]
        cursor = str(after + limit) if after + limit < len(steps) else None
        return JSONResponse({"steps": page, "next_cursor": cursor})

    async def signal(self, request: Request, body: Any) -> Response:
        execution_id, event = request.path_params["id"], request.path_params["event"]
        key = request.headers["idempotency-key"]
        if key not in self.started_keys:
            self.started_keys[key] = f"sig_{len(self.started_keys) + 1}"
            self.signals.setdefault(execution_id, []).append((event, body))
        said = {"signal_id": self.started_keys[key], "execution_id": execution_id, "event": event, "delivered": False}
        return JSONResponse(said, 202)

    async def approval(self, request: Request, body: Any) -> Response:
        execution_id = request.path_params["id"]
        said = {"approval_request_id": "approval", "execution_id": execution_id, "status": "pending"}
        return JSONResponse(said | {"status": self.decisions.get(execution_id, {}).get("decision", "pending")})

    async def decide(self, request: Request, body: Any) -> Response:
        said = {"feedback": body.get("feedback"), "response": body.get("response"), "decision": body["decision"]}
        known = self.decisions.setdefault(request.path_params["id"], said)
        return JSONResponse({"status": "processed", "decision": known["decision"]})

    async def execution(self, request: Request, body: Any) -> Response:
        execution_id = request.path_params["id"]
        deadline = time.monotonic() + float(request.query_params.get("wait_seconds", 0))
        while execution_id in self.executions:
            shape = self.executions[execution_id]
            left = deadline - time.monotonic()
            if shape["status"] not in {"queued", "running"} or left <= 0 or await request.is_disconnected():
                return JSONResponse(shape)
            await self._wait(min(left, 0.2))
        return problem(404, "execution_not_found")

    def finish(self, execution_id: str, **outcome: Any) -> None:
        self.executions[execution_id] |= outcome
        self._notify()

    async def list_executions(self, request: Request, body: Any) -> Response:
        wanted = request.query_params.get("status")
        items = [shape for shape in self.executions.values() if wanted in {None, shape["status"]}]
        return JSONResponse({"items": items, "next_cursor": None})

    async def cancel(self, request: Request, body: Any) -> Response:
        shape = self.executions[request.path_params["id"]]
        if shape["status"] in {"succeeded", "failed", "cancelled"}:
            return problem(409, "already_finished")
        self.finish(request.path_params["id"], status="cancelled")
        return JSONResponse({"status": "cancelled", "settled": True})

    async def pause(self, request: Request, body: Any) -> Response:
        return self._turn(request.path_params["id"], "waiting", "paused")

    async def resume(self, request: Request, body: Any) -> Response:
        return self._turn(request.path_params["id"], "queued", None)

    def _turn(self, execution_id: str, status: str, reason: str | None) -> Response:
        shape = self.executions[execution_id]
        if shape["status"] in {"succeeded", "failed", "cancelled"}:
            return problem(409, "already_finished")
        if shape.get("status_reason") == "cancelling" or shape.get("status_reason") == reason:
            return problem(409, "invalid_state")
        self.finish(execution_id, status=status, status_reason=reason)
        return JSONResponse({"execution_id": execution_id, "status": "paused" if reason else status})

    async def explain(self, request: Request, body: Any) -> Response:
        execution_id = request.path_params["id"]
        if execution_id not in self.executions:
            return problem(404, "execution_not_found")
        said = {"execution_id": execution_id, "status": "queued", "code": "no_node", "sentence": "Nobody is there."}
        return JSONResponse(said | {"facts": {"processes": 0}})

    async def attempts(self, request: Request, body: Any) -> Response:
        after, limit = int(request.query_params["cursor"]), int(request.query_params["limit"])
        if (ended := self.past.get(request.path_params["id"])) is not None:
            return JSONResponse({"items": ended, "next_cursor": None})
        tries = [{"attempt": n, "ended": "retried", "started_at": "2030-01-01T00:00:00Z"} for n in range(1, 252)]
        items = tries[after : after + limit]
        return JSONResponse({"items": items, "next_cursor": str(after + limit) if after + limit < 251 else None})

    async def restart(self, request: Request, body: Any) -> Response:
        key = request.headers["idempotency-key"]
        execution_id = self.started_keys.setdefault(key, f"exec_again_{len(self.started_keys) + 1}")
        shape = {"execution_id": execution_id, "run_id": "run_again", "status": "queued"}
        self.executions.setdefault(execution_id, shape | {"target": "n.f"})
        return JSONResponse(shape | {"restarted_execution_id": request.path_params["id"]}, 202)

    async def pauses(self, request: Request, body: Any) -> Response:
        """Everything, and nothing after it."""
        item = {"scope": "all", "paused_at": TIMES[0], "reason": "why"}
        cursor = request.query_params.get("cursor")
        return JSONResponse({"items": [] if cursor else [item], "next_cursor": None if cursor else "/"})

    async def hold(self, request: Request, body: Any) -> Response:
        """Whatever is paused, resumed, drained or undrained is said back, with the same counts for ever."""
        name, verb = request.path_params.get("name"), request.path_params["verb"]
        if name == "nobody":
            return problem(404, "node_not_found")
        if "drain" in verb:
            return JSONResponse({"node_id": name, "changed": True, "draining": 2, "draining_running": 1})
        scope = {"nodes": "node", "reasoners": "reasoner"}.get(request.path_params.get("kind", ""), "all")
        still = [{"scope": "all", "paused_at": TIMES[0]}] if verb == "resume" and name else []
        counts = {"queued": 3, "queued_is_more": False, "running": 1, "still_paused_by": still}
        return JSONResponse({"scope": scope, "name": name, "paused": verb == "pause", "changed": True} | body | counts)

    async def forget_node(self, request: Request, body: Any) -> Response:
        """Nobody is not there, and somebody is needed."""
        name = request.path_params["name"]
        if name == "nobody":
            return problem(404, "node_not_found")
        return problem(409, "node_in_use") if name == "busy" else JSONResponse({"node_id": name, "deleted": True})

    async def schedule(self, request: Request, body: Any) -> Response:
        """Whatever is asked of schedules: they are kept as they are told, and plan the same two times for ever."""
        name = request.path_params.get("name") or (body or {}).get("name")
        what = request.path_params.get("what", "")
        if name is None:
            return JSONResponse({"items": list(self.schedules.values()), "next_cursor": None})
        if request.method == "PUT" or (request.method == "POST" and not what):
            self.schedules[name] = {"name": name, "paused": False, "next_at": TIMES[0], "next": TIMES} | body
            return JSONResponse(self.schedules[name], 201)
        if name not in self.schedules:
            return problem(404, "schedule_not_found")
        if request.method == "DELETE":
            return JSONResponse({"name": name, "deleted": self.schedules.pop(name) is not None})
        if what in {"pause", "resume"}:
            self.schedules[name] |= {"paused": what == "pause"}
        if what == "run":
            key = request.headers["idempotency-key"]
            execution_id = self.started_keys.setdefault(key, f"exec_run_{len(self.started_keys) + 1}")
            self.executions.setdefault(
                execution_id, {"execution_id": execution_id, "run_id": "run_new", "status": "queued"}
            )
            return JSONResponse(self.executions[execution_id], 202)
        if what == "next":
            return JSONResponse({"name": name, "next": TIMES[: int(request.query_params["count"])]})
        if what == "ticks":
            tick = {"planned_at": TIMES[0], "outcome": "skipped", "by_hand": False, "at": TIMES[0]}
            return JSONResponse({"items": [tick], "next_cursor": None})
        return JSONResponse(self.schedules[name])

    async def endpoint(self, request: Request, body: Any) -> Response:
        """Whatever is asked of endpoints: they are kept as they are told, and their secrets not said back."""
        name = request.path_params.get("name") or (body or {}).get("name")
        what = request.path_params.get("what", "")
        if name is None:
            return JSONResponse({"items": list(self.endpoints.values()), "next_cursor": None})
        if request.method == "POST" and not what:
            self.endpoints.setdefault(name, {"state": "enabled"})
        elif name not in self.endpoints:
            return problem(404, "endpoint_not_found")
        there = self.endpoints[name]
        if what == "test":
            return JSONResponse({"delivered": True, "request": {"method": "POST"}, "response": {"status": 200}})
        if request.method == "DELETE":
            del self.endpoints[name]
            return JSONResponse({"deleted": True})
        words = {word: said for word, said in (body or {}).items() if word not in ("secret", "headers")}
        there |= words | ({"state": f"{what}d"} if what in ("enable", "disable") else {})
        self._notify()
        return JSONResponse(there)

    async def trigger(self, request: Request, body: Any) -> Response:
        """Whatever is asked of triggers: they are kept as they are told."""
        name = request.path_params.get("name") or (body or {}).get("name")
        what = request.path_params.get("what", "")
        if name is None:
            asked = request.query_params.get("managed_by")
            found = [one for one in self.triggers.values() if one.get("managed_by") == asked]
            return JSONResponse({"items": found, "next_cursor": None})
        there = self.triggers.get(name)
        if request.method == "POST" and not what:
            if there is not None and (there | body) != there:
                return problem(409, "trigger_exists")
            self.triggers.setdefault(name, {"paused": False} | body)
        elif there is None:
            return problem(404, "trigger_not_found")
        elif what == "replay":
            key = request.headers["idempotency-key"]
            execution_id = self.started_keys.setdefault(key, f"exec_replay_{len(self.started_keys) + 1}")
            self.executions.setdefault(
                execution_id, {"execution_id": execution_id, "run_id": "run_new", "status": "queued"}
            )
            return JSONResponse(self.executions[execution_id], 202)
        elif what in {"pause", "resume"}:
            self.triggers[name] = there | {"paused": what == "pause", "paused_reason": body.get("reason")}
        else:
            self.triggers[name] = there | (body or {})
        self._notify()
        return JSONResponse(self.triggers[name])

    async def events(self, request: Request, body: Any) -> Response:
        after = int(request.headers.get("last-event-id", 0))

        async def stream() -> Any:
            yield b'data: {"type":"connected"}\n\n'
            for name, (cut, frame) in enumerate(self.frames.get(request.path_params["id"], []), 1):
                if name > after:
                    yield f"id: {name}\r\ndata: {json.dumps(frame, ensure_ascii=False)}\r\n\r\n".encode()
                    if cut:
                        return
            await self._wait(5)

        return StreamingResponse(stream(), media_type="text/event-stream")

    async def model(self, request: Request, body: Any) -> Response:
        """An OpenAI-compatible model: it repeats the user's words, or gives the JSON that `self.says` holds."""
        said = self.says or f"summary of {body['messages'][-1]['content']}"
        message = {"role": "assistant", "content": said, "refusal": None}
        choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
        return JSONResponse(
            {"id": "c", "object": "chat.completion", "created": 0, "model": body["model"], "choices": [choice]}
        )

    async def _wait(self, seconds: float) -> None:
        self._wake.clear()
        try:
            await asyncio.wait_for(self._wake.wait(), seconds)
        except TimeoutError:
            return


def _shown_step(step: dict[str, Any]) -> dict[str, Any]:
    shown = {name: step.get(name) for name in ("name", "kind", "status", "value", "attempt", "timed_out", "child_id")}
    if step["kind"] == "approval":
        shown["approval_request_url"] = step.get("url") or "http://link"
    return shown | ({"due_in_seconds": max(0.0, step["due"] - time.monotonic())} if step.get("due") else {})


def problem(status: int, code: str, **facts: Any) -> Response:
    said = {"status": status, "code": code, "error": code, "message": f"refused: {code}", "detail": code}
    return JSONResponse(said | facts, status, media_type="application/problem+json")


def named(fence: Fence) -> dict[str, Any]:
    return {"execution_id": fence[0], "attempt": fence[1]}
