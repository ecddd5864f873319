"""Every setting: read once from the environment, checked, frozen, handed on by constructors.

Names are the fields in upper case with the prefix `CONTROLPLANE_`; `DATABASE_URL` is honoured as it is everywhere.
"""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated

from pydantic import AliasChoices, BeforeValidator, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from controlplane.domain.cap import MOST, Cap
from controlplane.domain.retention import DAY_SECONDS, Keep
from controlplane.wire.limits import WireLimits

TARGET = r"^[A-Za-z0-9_][A-Za-z0-9_\-:]{0,127}\.[A-Za-z0-9_][A-Za-z0-9_\-:]{0,127}$"
ORIGIN = r"^https?://[a-z0-9.\-]+(:[0-9]{1,5})?$"
FOREVER = "forever"
KEEP_DAYS_MIN = 1
KEEP_DAYS_MAX = 36_500
KeepDays = Annotated[
    Annotated[float, Field(ge=KEEP_DAYS_MIN, le=KEEP_DAYS_MAX)] | None,
    BeforeValidator(lambda given: None if given in (FOREVER, "") else given),
]
"""Days from the end of something until it is removed; None, written `forever` or not at all, keeps it."""

UNLIMITED = "unlimited"
CapCount = Annotated[
    Annotated[int, Field(ge=0, le=MOST)] | None,
    BeforeValidator(lambda given: None if given in (UNLIMITED, "") else given),
]
"""How many a namespace may have; None, written `unlimited`, is any number."""

KEEP_AUDIT_DAYS_MIN = 30
"""The database itself takes away nothing younger (migration 0020)."""
KeepAuditDays = Annotated[
    Annotated[float, Field(ge=KEEP_AUDIT_DAYS_MIN, le=KEEP_DAYS_MAX)] | None,
    BeforeValidator(lambda given: None if given in (FOREVER, "") else given),
]

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="CONTROLPLANE_", frozen=True, extra="ignore", populate_by_name=True)

    database_url: str | None = Field(
        default=None,
        validation_alias=AliasChoices("DATABASE_URL", "CONTROLPLANE_DATABASE_URL"),
        description="PostgreSQL to use, 15 or newer. Without it `dev` starts one of its own.",
    )
    database_pooler: bool = Field(
        default=False,
        description="Whether a transaction pooler (PgBouncer) stands in front: nothing is prepared or set per session.",
    )
    database_direct_url: str | None = Field(
        default=None,
        description="The same database past that pooler, to listen for hints; without it work is found by polling.",
    )
    database_connections: int = Field(
        default=10, ge=4, le=200, description="Connections to the database per replica, whatever the number of callers."
    )
    database_patience_seconds: float = Field(
        default=15.0,
        ge=0,
        le=300,
        description="How long a submit, result or checkpoint waits for a database that is away, before it answers 503.",
    )
    host: str = Field(default="127.0.0.1", description="Address to listen on; another than loopback needs an API key.")
    port: int = Field(default=8080, ge=0, le=65535, description="Port to listen on.")
    workers: int = Field(
        default=1,
        ge=1,
        le=64,
        description="Server processes of `serve` behind one address, each a replica: as many as there are cores.",
    )
    worker_port: int | None = Field(
        default=None,
        ge=1,
        le=65535,
        description="Each worker is also reached alone, the first at this port, the second at the next, and so on: "
        "/metrics says what the worker that is asked has done.",
    )
    public_url: str | None = Field(
        default=None,
        pattern=r"^https?://[^\s/]+(/[^\s]*)?$",
        description="Where people reach this server, for links that it gives out; by default http://host:port.",
    )
    api_key: SecretStr | None = Field(
        default=None, description="The key that callers and nodes send as X-API-Key or Authorization: Bearer."
    )
    secret_key: SecretStr | None = Field(
        default=None,
        description="Key ring that seals webhook secrets: kid:base64(32 bytes)[,older…]. `dev` makes its own.",
    )
    approval_secret: SecretStr | None = Field(
        default=None,
        description="Secret that signs what /api/v1/webhooks/approval-response is sent; with it no API key is needed.",
    )
    egress_allow: tuple[IPv4Network | IPv6Network, ...] = Field(
        default=(), description="Private networks that webhooks may reach, as a JSON list of CIDR ranges."
    )
    egress_allow_loopback: bool = Field(
        default=False, description="Whether webhooks may reach this machine; only for development."
    )
    nodes_allow: tuple[IPv4Network | IPv6Network, ...] = Field(
        default=(),
        description="Private networks that nodes may be called in, as a JSON list of CIDR ranges.",
    )
    node_token: SecretStr | None = Field(
        default=None, description="The bearer token that nodes are called with, for those that check who calls them."
    )
    push_slots: int = Field(
        default=100,
        ge=1,
        le=10_000,
        description="Executions at once in a process that is called.",
    )
    push_slots_of: dict[str, int] = Field(
        default={}, description="The same for single nodes, as a JSON object of node ids and numbers from 1."
    )
    push_lease_seconds: float = Field(
        default=120.0,
        ge=1,
        le=3600,
        description="The shortest lease of a process that is called (at least 3 of its heartbeats).",
    )
    push_dispatch_seconds: float = Field(
        default=30.0,
        ge=0.5,
        le=3600,
        description="How long a called node may take to acknowledge work before it is asked whether it has it.",
    )
    push_start_to_close_seconds: float = Field(
        default=7_260.0,
        gt=0,
        le=1e9,
        description="How long an attempt may be active in AgentField's Python SDK, whose own limit is a minute less.",
    )
    lease_seconds: float = Field(
        default=30.0,
        ge=1,
        le=3600,
        description="The shortest lease: how long a silent process keeps its work (at least 3 heartbeats).",
    )
    cancel_grace_seconds: float = Field(
        default=10.0, ge=0, le=3600, description="How long a node may take to stop a cancelled attempt."
    )
    body_bytes_max: int = Field(default=10_485_760, ge=1024, description="Largest request body, in bytes.")
    payload_bytes_max: int = Field(
        default=8_388_608, ge=1024, description="Largest input, result or memory value, in bytes."
    )
    head_seconds: float = Field(
        default=10.0,
        gt=0,
        le=600,
        description="How long the head of a request may take to arrive, and a body until its rate counts.",
    )
    head_bytes_max: int = Field(
        default=32_768, ge=1024, le=1_048_576, description="Largest head of a request (its URL and headers), in bytes."
    )
    body_seconds: float = Field(
        default=120.0, gt=0, le=3600, description="How long the body of a request may take to arrive."
    )
    body_bytes_per_second_min: int = Field(
        default=1_024,
        ge=0,
        description="How slowly the body of a request may arrive, in bytes per second; 0: any.",
    )
    reader_stalled_seconds: float = Field(
        default=30.0, gt=0, le=3600, description="How long a reader may take nothing of the answer that waits for it."
    )
    connections_max: int = Field(
        default=10_000,
        ge=16,
        le=1_000_000,
        description="Connections of callers and nodes per replica; of more only health is answered, others with 503.",
    )
    rate_per_second: float | None = Field(
        default=None,
        gt=0,
        le=1e6,
        description="Requests per second of one API key (else of one address) and replica; unset: any number.",
    )
    rate_burst: int = Field(
        default=200, ge=1, le=1_000_000, description="Requests at once, before `rate_per_second` holds."
    )
    namespace_rate_per_second: float | None = Field(
        default=None,
        gt=0,
        le=1e6,
        description="Requests per second of one namespace and replica, all of its keys together; unset: any number.",
    )
    namespace_rate_burst: int = Field(
        default=1_000, ge=1, le=1_000_000, description="Requests at once, before `namespace_rate_per_second` holds."
    )
    cap_executions: CapCount = Field(
        default=1_000_000, description="Unfinished executions of one namespace, or `unlimited`."
    )
    cap_stored_bytes: CapCount = Field(
        default=None,
        description="Bytes of inputs, contexts and results of one namespace, as last counted; unset: any number.",
    )
    cap_schedules: CapCount = Field(default=10_000, description="Schedules of one namespace, or `unlimited`.")
    cap_triggers: CapCount = Field(default=1_000, description="Triggers of one namespace, or `unlimited`.")
    cap_keys: CapCount = Field(
        default=1_000,
        description="API keys of one namespace that are neither revoked nor expired, or `unlimited`.",
    )
    cap_nodes: CapCount = Field(default=20_000, description="Nodes of one namespace, or `unlimited`.")
    cap_sessions_per_node: CapCount = Field(default=1_000, description="Live processes of one node, or `unlimited`.")
    cap_memory_keys: CapCount = Field(
        default=None, description="Keys in the memory of one namespace, counted every minute; unset: any number."
    )
    cap_memory_bytes: CapCount = Field(
        default=None, description="Bytes in the memory of one namespace, counted every minute; unset: any number."
    )
    wrong_keys_per_minute: int = Field(
        default=30,
        ge=1,
        le=1_000_000,
        description="Unknown API keys per minute of one address and replica that are looked at; of more each is a 429.",
    )
    cors_origins: tuple[Annotated[str, Field(pattern=ORIGIN)], ...] = Field(
        default=(),
        description="Web pages that may call the API from a browser, as a JSON list of origins (https://host[:port]).",
    )
    ui_read_only: bool = Field(
        default=False, description="Whether the dashboard only shows: its buttons are off, and it can change nothing."
    )
    sync_wait_seconds: float = Field(
        default=90.0, gt=0, le=3600, description="How long a synchronous execute waits for its result."
    )
    webhook_attempts_max: int = Field(default=5, ge=1, le=50, description="Tries per webhook before it is dead.")
    webhook_seconds: float = Field(
        default=10.0, gt=0, le=60, description="Deadline of one webhook attempt, from the name lookup to the last byte."
    )
    webhooks_in_flight_max: int = Field(
        default=256, ge=1, le=4096, description="Webhook attempts under way per replica."
    )
    webhooks_per_host_max: int = Field(
        default=16, ge=1, le=1024, description="Webhook attempts under way per receiving host and replica."
    )
    webhook_secret_days: float = Field(
        default=30.0, gt=0, description="How long a sealed webhook secret is kept for sending again by hand."
    )
    memory_changes_seconds: float = Field(
        default=3_600.0, ge=60, le=604_800, description="How long changes of memory are kept for those who look back."
    )
    trigger_events_days: float = Field(
        default=30.0,
        ge=1,
        description="How long events of triggers are kept: to replay them, and to know one that is sent again.",
    )
    jobs_target: str | None = Field(
        default=None,
        pattern=TARGET,
        description="The reasoner that serves `/jobs` and `/ws/{session_id}`; without it there are no such paths.",
    )
    agent_target: str | None = Field(
        default=None,
        pattern=TARGET,
        description="The reasoner that serves `/agent/submit` and its like; without it there are no such paths.",
    )
    keep_succeeded_days: KeepDays = Field(
        default=None,
        description="Days that succeeded executions are kept after their end, from 1; unset or `forever`: always.",
    )
    keep_failed_days: KeepDays = Field(
        default=None,
        description="Days that failed executions are kept after their end, from 1; unset or `forever`: always.",
    )
    keep_cancelled_days: KeepDays = Field(
        default=None,
        description="Days that cancelled executions are kept after their end, from 1; unset or `forever`: always.",
    )
    keep_timeout_days: KeepDays = Field(
        default=None, description="Days that executions are kept after a timeout, from 1; unset or `forever`: always."
    )
    keep_events_days: KeepDays = Field(
        default=None, description="Days that events are kept after the end of their execution; unset: as long as it."
    )
    keep_logs_days: KeepDays = Field(
        default=None, description="Days that logs are kept after the end of their execution; unset: as long as it."
    )
    keep_delivered_days: KeepDays = Field(
        default=None, description="Days that delivered deliveries are kept; unset: as long as their execution."
    )
    keep_dead_days: KeepDays = Field(
        default=None, description="Days that dead deliveries are kept; unset: as long as their execution."
    )
    keep_audit_days: KeepAuditDays = Field(
        default=None, description="Days that the audit log is kept, from 30; unset or `forever`: always."
    )
    endpoints_max: int = Field(
        default=20, ge=1, le=1_000, description="Webhook endpoints that a namespace may register."
    )
    endpoint_dead_max: int = Field(
        default=20,
        ge=1,
        le=1_000_000,
        description="Deliveries that must die in a row before an endpoint is disabled by itself.",
    )
    endpoint_failing_hours: float = Field(
        default=72.0,
        ge=0,
        le=8_760,
        description="For how long an endpoint must have taken nothing before it is disabled by itself.",
    )
    notify: bool = Field(default=True, description="Whether replicas hint at work by NOTIFY; polling finds it anyway.")
    partitions_weeks_ahead: int = Field(default=4, ge=1, le=52, description="Weeks of partitions made in advance.")
    buckets: int = Field(default=1, ge=1, le=4096, description="Buckets that new executions are spread over.")
    buckets_hashed: int = Field(
        default=1, ge=1, le=4096, description="Buckets of what is found by name; never change it."
    )
    verify_seconds: float = Field(
        default=60.0,
        ge=0,
        le=86_400,
        description="How often the invariants that are cheap to ask are asked of the database; 0: never.",
    )
    snapshot_seconds: float = Field(
        default=60.0,
        ge=0,
        le=86_400,
        description="How long a snapshot may be held by others of the database until health says `snapshot_pinned`.",
    )
    drain_seconds: float = Field(
        default=5.0, ge=0, le=600, description="How long requests under way may take after SIGTERM."
    )
    data_dir: Path = Field(default=Path(".controlplane"), description="Where `dev` keeps its database and keys.")
    log_level: str = Field(default="INFO", description="DEBUG, INFO, WARNING or ERROR.")

    @property
    def keep(self) -> Keep:
        """The `keep_…_days`, in seconds."""
        return Keep(
            succeeded_seconds=_seconds(self.keep_succeeded_days),
            failed_seconds=_seconds(self.keep_failed_days),
            cancelled_seconds=_seconds(self.keep_cancelled_days),
            timeout_seconds=_seconds(self.keep_timeout_days),
            events_seconds=_seconds(self.keep_events_days),
            logs_seconds=_seconds(self.keep_logs_days),
            delivered_seconds=_seconds(self.keep_delivered_days),
            dead_seconds=_seconds(self.keep_dead_days),
        )

    @property
    def caps(self) -> dict[Cap, int | None]:
        """The `cap_…`: what holds for a namespace of which nothing else was said."""
        return {
            Cap.EXECUTIONS: self.cap_executions,
            Cap.STORED_BYTES: self.cap_stored_bytes,
            Cap.SCHEDULES: self.cap_schedules,
            Cap.TRIGGERS: self.cap_triggers,
            Cap.KEYS: self.cap_keys,
            Cap.NODES: self.cap_nodes,
            Cap.SESSIONS_PER_NODE: self.cap_sessions_per_node,
            Cap.MEMORY_KEYS: self.cap_memory_keys,
            Cap.MEMORY_BYTES: self.cap_memory_bytes,
        }

    @property
    def wire(self) -> WireLimits:
        """What a connection may cost."""
        return WireLimits(
            head_seconds=self.head_seconds,
            head_bytes_max=self.head_bytes_max,
            body_seconds=self.body_seconds,
            body_bytes_per_second_min=self.body_bytes_per_second_min,
            stalled_seconds=self.reader_stalled_seconds,
            connections_max=self.connections_max,
            message_bytes_max=self.body_bytes_max,
        )

    @property
    def open_to_others(self) -> bool:
        return self.host not in LOOPBACK


def _seconds(days: float | None) -> float | None:
    return None if days is None else days * DAY_SECONDS
