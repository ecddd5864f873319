"""Every page: its address, and what a key needs to look at it."""

from __future__ import annotations

from collections.abc import Sequence

from controlplane.api.operation import NOTHING, OPEN, READ, Handler, Operation
from controlplane.ui import entry, files
from controlplane.ui.asking import Api
from controlplane.ui.execution import Execution
from controlplane.ui.executions import Executions
from controlplane.ui.nodes import Nodes
from controlplane.ui.overview import Overview
from controlplane.ui.places import Places
from controlplane.ui.reasoner import Reasoner
from controlplane.ui.schedules import Schedules
from controlplane.ui.settings import Settings

TAG = "pages"


def pages(operations: Sequence[Operation]) -> list[Operation]:
    """The pages beside these routes, which they ask."""
    api = Api(operations)
    overview, executions, execution, places = Overview(api), Executions(api), Execution(api), Places(api)
    reasoner, nodes, schedules, settings = Reasoner(api), Nodes(api), Schedules(api), Settings(api)
    return [
        _page("/", overview.page, "Overview"),
        _page("/ui/x/overview", overview.part, "What changes of the overview"),
        _page("/find", executions.find, "Where the text in the search box leads"),
        _page("/executions", executions.page, "Executions"),
        _page("/ui/x/executions/rows", executions.rows, "Rows as they stand now"),
        _page("/ui/x/executions/new", executions.new, "How many are newer"),
        _page("/executions/{execution_id}", execution.page, "One execution"),
        _page("/ui/x/executions/{execution_id}/head", execution.head, "Where an execution stands"),
        _page("/ui/x/executions/{execution_id}/lines", execution.log_lines, "More of its log"),
        _page("/ui/x/executions/{execution_id}/tabs/{tab}", execution.tab, "One tab of an execution"),
        _page("/reasoners", places.reasoners, "Reasoners"),
        _page("/reasoners/{target}", reasoner.page, "One reasoner: how it does, and a form to run it"),
        _page("/nodes", nodes.page, "Nodes"),
        _page("/nodes/{node_id}", nodes.one, "One node"),
        _page("/limits", places.limits, "Limits"),
        _page("/schedules", schedules.page, "Schedules"),
        _page("/schedules/{name}", schedules.one, "One schedule, and a form to change it"),
        _page("/webhooks", places.webhooks, "Webhooks"),
        _page("/approvals", places.approvals, "Approvals"),
        _page("/bulk/{bulk_id}", places.bulk, "How far a bulk is"),
        _page("/settings", settings.page, "Settings: keys, the audit log, and how it goes with the server"),
        Operation(method="GET", path="/login", handler=entry.show, summary="Sign in", tag=TAG, scope=OPEN, page=True),
        _open("POST", "/login", entry.begin, "A cookie for a key"),
        _open("POST", "/logout", entry.end, "Forget the cookie"),
        _open("GET", "/static/{mark}/{name}", files.read, "A file of the pages"),
    ]


def _page(path: str, handler: Handler, summary: str) -> Operation:
    return Operation(method="GET", path=path, handler=handler, summary=summary, tag=TAG, scope=READ, page=True)


def _open(method: str, path: str, handler: Handler, summary: str) -> Operation:
    audit = None if method == "GET" else NOTHING
    return Operation(method=method, path=path, handler=handler, summary=summary, tag=TAG, scope=OPEN, audit=audit)
