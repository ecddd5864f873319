-- The data model, dumped from the migrations by `make schema`; a test compares. Without weekly partitions.

CREATE FUNCTION public.analyze_grown(factor double precision, rows_min double precision, most integer) RETURNS text[]
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'public', 'pg_temp'
    AS $$
declare
  one text;
  done text[] := '{}';
begin
  for one in
    select c.oid::regclass
    from pg_class c
    where c.relnamespace = current_schema()::regnamespace
      and c.relkind = 'r'
      and pg_stat_get_live_tuples(c.oid) > greatest(rows_min, factor * c.reltuples)
    order by c.reltuples, c.relname
    limit most
  loop
    execute format('analyze (skip_locked) %s', one);
    done := done || one;
  end loop;
  return done;
end
$$;

CREATE FUNCTION public.audit_hash(previous bytea, fields text[]) RETURNS bytea
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN sha256((previous || convert_to((SELECT string_agg(COALESCE(((octet_length(f.field) || ':'::text) || f.field), '-'::text), ''::text ORDER BY f.n) AS string_agg FROM unnest(audit_hash.fields) WITH ORDINALITY f(field, n)), 'UTF8'::name)));

CREATE FUNCTION public.audit_heads_go_forward() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
declare
  last record;
begin
  if tg_op = 'UPDATE' then
    if (new.bucket, new.namespace) = (old.bucket, old.namespace)
      and (new.seq = old.seq and new.hash = old.hash or new.seq = old.seq + 1)
    then
      if (new.removed_seq, new.removed_hash) = (old.removed_seq, old.removed_hash) then
        return new;
      end if;
      select a.hash, a.at into last
      from audit a
      where a.bucket = new.bucket and a.namespace = new.namespace and a.seq = new.removed_seq;
      if new.removed_seq > old.removed_seq
        and last.hash = new.removed_hash
        and last.at < clock() - interval '30 days'
      then
        return new;
      end if;
    end if;
  end if;
  raise exception 'the head of an audit chain only goes forward: % refused', lower(tg_op)
    using errcode = 'restrict_violation';
end
$$;

CREATE FUNCTION public.audit_is_append_only() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
begin
  if tg_op = 'DELETE' then
    perform from audit_heads h
    where h.bucket = old.bucket and h.namespace = old.namespace and h.removed_seq >= old.seq;
    if found then
      return old;
    end if;
  end if;
  raise exception 'audit is append-only: % refused', lower(tg_op)
    using errcode = 'restrict_violation', hint = 'Retention moves audit_heads.removed_seq first.';
end
$$;

CREATE FUNCTION public.clock() RETURNS timestamp with time zone
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$ select now() + coalesce(nullif(current_setting('controlplane.clock_offset', true), ''), '0')::interval $$;

CREATE FUNCTION public.drop_partition(buckets smallint[]) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER
    SET lock_timeout TO '200ms'
    SET search_path TO 'public', 'pg_temp'
    AS $_$
declare
  parent text;
  name text;
  week timestamptz;
  used boolean;
begin
  perform pg_advisory_xact_lock(hashtext('controlplane.partitions'));
  for parent, name, week in
    select p.parent, c.relname, to_date(right(c.relname, 10), 'YYYY_MM_DD')::timestamp at time zone 'UTC'
    from unnest(array['executions', 'outcomes', 'events', 'logs', 'delivery_attempts']) with ordinality as p(parent, n)
    join pg_inherits i on i.inhparent = to_regclass(p.parent)
    join pg_class c on c.oid = i.inhrelid
    where c.relname ~ ('^' || p.parent || '_\d{4}_\d{2}_\d{2}$')
    order by p.n, c.relname
  loop
    continue when week >= date_trunc('week', clock() at time zone 'UTC') at time zone 'UTC' - interval '1 week';
    -- Outcomes, events and logs are written as long as their execution is there, perhaps none of them so far.
    continue when parent in ('outcomes', 'events', 'logs')
      and to_regclass('executions' || right(name, 11)) is not null;
    if parent = 'delivery_attempts' then
      select bool_or(d.found) into used
      from unnest(buckets) as b(bucket)
      cross join lateral (
        select exists (
          select 1
          from deliveries
          where deliveries.bucket = b.bucket
            and id >= uuid_floor(week)
            and id < uuid_floor(week + interval '1 week')
        ) as found
      ) as d;
      continue when used;
    end if;
    execute format('select exists (select 1 from %I)', name) into used;
    continue when used;
    -- The parent first, as everybody does who reads or writes through it.
    execute format('lock table only %I in access exclusive mode', parent);
    execute format('lock table %I in access exclusive mode', name);
    execute format('select exists (select 1 from %I)', name) into used;
    if not used then
      execute format('drop table %I', name);
      return name;
    end if;
  end loop;
  return null;
end
$_$;

CREATE FUNCTION public.ensure_partitions(weeks_ahead integer) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET lock_timeout TO '200ms'
    SET search_path TO 'public', 'pg_temp'
    AS $$
declare
  parent text;
  week timestamptz;
  name text;
  made integer := 0;
begin
  perform pg_advisory_xact_lock(hashtext('controlplane.partitions'));
  foreach parent in array array['executions', 'outcomes', 'events', 'logs', 'delivery_attempts'] loop
    for week in
      select generate_series(
        date_trunc('week', clock() at time zone 'UTC') - interval '1 week',
        date_trunc('week', clock() at time zone 'UTC') + make_interval(weeks => weeks_ahead),
        interval '1 week'
      ) at time zone 'UTC'
    loop
      name := parent || to_char(week at time zone 'UTC', '_YYYY_MM_DD');
      if to_regclass(name) is null then
        begin
          execute format(
            'create table %I partition of %I for values from (%L) to (%L)',
            name, parent, uuid_floor(week), uuid_floor(week + interval '1 week')
          );
          made := made + 1;
        exception when check_violation then
          -- It came too late: rows of that week lie in the DEFAULT partition. The weeks after it are made all the same.
          raise warning 'no partition %: rows of its week are in %_default', name, parent;
        end;
      end if;
    end loop;
  end loop;
  return made;
end
$$;

CREATE FUNCTION public.has_open(of_bucket smallint, of_execution uuid) RETURNS boolean
    LANGUAGE plpgsql
    AS $$
begin
  return exists (
    select 1
    from steps
    where bucket = of_bucket
      and execution_id = of_execution
      and (status = 'pending' or awaited)
    offset 0
  ) or exists (
    select 1
    from approvals
    where bucket = of_bucket
      and execution_id = of_execution
      and status = 'pending'
    offset 0
  );
end
$$;

CREATE FUNCTION public.uuid_floor(moment timestamp with time zone) RETURNS uuid
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$ select (lpad(to_hex((extract(epoch from moment) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid $$;

CREATE TABLE public.alembic_version (
    version_num character varying(32) NOT NULL
);

CREATE TABLE public.announced (
    bucket smallint NOT NULL,
    xid xid8 NOT NULL,
    seq bigint NOT NULL,
    moved_at timestamp with time zone NOT NULL
);

CREATE TABLE public.api_keys (
    bucket smallint NOT NULL,
    id uuid NOT NULL,
    namespace smallint NOT NULL,
    name text NOT NULL,
    prefix text NOT NULL,
    hash bytea NOT NULL,
    scopes text[] NOT NULL,
    created_at timestamp with time zone NOT NULL,
    expires_at timestamp with time zone,
    last_used_at timestamp with time zone,
    revoked_at timestamp with time zone,
    node_ids text[],
    created_by text,
    revoked_by text,
    replaced_by uuid,
    hide_payloads boolean DEFAULT false NOT NULL,
    CONSTRAINT api_keys_hash_check CHECK ((length(hash) = 32)),
    CONSTRAINT api_keys_scopes_check CHECK (((cardinality(scopes) > 0) AND (scopes <@ ARRAY['execute'::text, 'read'::text, 'operate'::text, 'admin'::text, 'node'::text]))),
    CONSTRAINT node_keys_name_nodes CHECK ((('node'::text = ANY (scopes)) = (node_ids IS NOT NULL))),
    CONSTRAINT node_keys_name_some CHECK ((cardinality(node_ids) > 0)),
    CONSTRAINT node_keys_see CHECK ((NOT (hide_payloads AND ('node'::text = ANY (scopes)))))
);

CREATE TABLE public.approvals (
    bucket smallint NOT NULL,
    execution_id uuid NOT NULL,
    request_id text NOT NULL,
    namespace smallint NOT NULL,
    attempt integer NOT NULL,
    node_id text NOT NULL,
    status text NOT NULL,
    url text,
    callback_url text,
    feedback text,
    response bytea,
    requested_at timestamp with time zone NOT NULL,
    expires_at timestamp with time zone,
    decided_at timestamp with time zone,
    title text,
    durable boolean DEFAULT false NOT NULL,
    CONSTRAINT approvals_status_check CHECK ((status = ANY (ARRAY['pending'::text, 'approved'::text, 'rejected'::text, 'request_changes'::text, 'expired'::text]))),
    CONSTRAINT decided_has_moment CHECK (((status = 'pending'::text) = (decided_at IS NULL)))
);

CREATE TABLE public.audit (
    bucket integer NOT NULL,
    namespace smallint NOT NULL,
    seq bigint NOT NULL,
    id uuid NOT NULL,
    at timestamp with time zone NOT NULL,
    actor_kind text NOT NULL,
    actor text,
    key_id uuid,
    actor_namespace text,
    request_id text,
    address text,
    user_agent text,
    action text NOT NULL,
    object_kind text NOT NULL,
    object_id text NOT NULL,
    before bytea,
    after bytea,
    previous bytea NOT NULL,
    hash bytea NOT NULL,
    CONSTRAINT audit_actor_kind CHECK ((actor_kind = ANY (ARRAY['key'::text, 'environment'::text, 'anybody'::text, 'link'::text, 'command'::text, 'daemon'::text]))),
    CONSTRAINT audit_counts_from_one CHECK ((seq > 0)),
    CONSTRAINT audit_hashes CHECK (((octet_length(previous) = 32) AND (octet_length(hash) = 32)))
);

CREATE TABLE public.audit_heads (
    bucket integer NOT NULL,
    namespace smallint NOT NULL,
    seq bigint DEFAULT 0 NOT NULL,
    hash bytea DEFAULT decode(repeat('00'::text, 32), 'hex'::text) NOT NULL,
    removed_seq bigint DEFAULT 0 NOT NULL,
    removed_hash bytea DEFAULT decode(repeat('00'::text, 32), 'hex'::text) NOT NULL,
    CONSTRAINT audit_heads_in_order CHECK (((0 <= removed_seq) AND (removed_seq <= seq)))
);

CREATE TABLE public.breakers (
    bucket smallint NOT NULL,
    host text NOT NULL,
    namespace smallint NOT NULL,
    failures integer NOT NULL,
    windows smallint NOT NULL,
    opened_at timestamp with time zone,
    open_until timestamp with time zone,
    held_until timestamp with time zone,
    changed_at timestamp with time zone NOT NULL,
    CONSTRAINT breakers_failures_check CHECK ((failures >= 0)),
    CONSTRAINT breakers_windows_check CHECK (((windows >= 0) AND (windows <= 16))),
    CONSTRAINT open_has_moments CHECK ((((windows > 0) = (open_until IS NOT NULL)) AND ((windows > 0) = (opened_at IS NOT NULL))))
)
WITH (fillfactor='80', autovacuum_vacuum_scale_factor='0.01', autovacuum_vacuum_threshold='500', autovacuum_vacuum_cost_delay='0');

CREATE TABLE public.bulks (
    bucket smallint NOT NULL,
    id uuid NOT NULL,
    namespace smallint NOT NULL,
    action text NOT NULL,
    filter bytea NOT NULL,
    reason text,
    reuse text,
    state text NOT NULL,
    error text,
    cursor uuid,
    matched integer NOT NULL,
    exact boolean NOT NULL,
    done integer DEFAULT 0 NOT NULL,
    skipped integer DEFAULT 0 NOT NULL,
    failed integer DEFAULT 0 NOT NULL,
    reasons bytea,
    created_at timestamp with time zone NOT NULL,
    began_at timestamp with time zone,
    moved_at timestamp with time zone NOT NULL,
    ended_at timestamp with time zone,
    created_by text,
    CONSTRAINT bulks_action_check CHECK ((action = ANY (ARRAY['cancel'::text, 'retry'::text, 'redrive_deliveries'::text, 'pause'::text, 'resume'::text]))),
    CONSTRAINT bulks_done_check CHECK ((done >= 0)),
    CONSTRAINT bulks_failed_check CHECK ((failed >= 0)),
    CONSTRAINT bulks_matched_check CHECK ((matched >= 0)),
    CONSTRAINT bulks_reuse_check CHECK ((reuse = ANY (ARRAY['succeeded-before'::text, 'none'::text]))),
    CONSTRAINT bulks_skipped_check CHECK ((skipped >= 0)),
    CONSTRAINT bulks_state_check CHECK ((state = ANY (ARRAY['running'::text, 'done'::text, 'stopped'::text, 'failed'::text]))),
    CONSTRAINT ended_has_moment CHECK (((state = 'running'::text) = (ended_at IS NULL))),
    CONSTRAINT failed_has_error CHECK (((state = 'failed'::text) = (error IS NOT NULL))),
    CONSTRAINT retry_says_what_is_reused CHECK (((action = 'retry'::text) = (reuse IS NOT NULL)))
)
WITH (fillfactor='70');

CREATE TABLE public.caps (
    bucket smallint NOT NULL,
    namespace smallint NOT NULL,
    name text NOT NULL,
    most bigint,
    updated_at timestamp with time zone NOT NULL,
    CONSTRAINT caps_most_check CHECK ((most >= 0)),
    CONSTRAINT caps_name_check CHECK ((name <> ''::text)),
    CONSTRAINT caps_namespace_check CHECK ((namespace > 0))
);

CREATE TABLE public.census (
    bucket smallint NOT NULL,
    namespace smallint NOT NULL,
    name text NOT NULL,
    count bigint NOT NULL,
    counted_at timestamp with time zone NOT NULL,
    cursor uuid,
    CONSTRAINT census_count_check CHECK ((count >= 0)),
    CONSTRAINT census_name_check CHECK ((name <> ''::text))
);

CREATE TABLE public.deliveries (
    bucket smallint NOT NULL,
    id uuid NOT NULL,
    namespace smallint NOT NULL,
    execution_id uuid NOT NULL,
    webhook_n smallint,
    event text NOT NULL,
    host text NOT NULL,
    url text NOT NULL,
    body bytea NOT NULL,
    state text NOT NULL,
    attempt integer DEFAULT 0 NOT NULL,
    charged smallint DEFAULT 0 NOT NULL,
    unknown smallint DEFAULT 0 NOT NULL,
    attempts_max smallint NOT NULL,
    next_at timestamp with time zone NOT NULL,
    lease_until timestamp with time zone,
    created_at timestamp with time zone NOT NULL,
    settled_at timestamp with time zone,
    endpoint_id uuid,
    xid xid8 DEFAULT pg_current_xact_id(),
    heard_n smallint,
    event_seq bigint,
    CONSTRAINT deliveries_state_check CHECK ((state = ANY (ARRAY['pending'::text, 'leased'::text, 'delivered'::text, 'dead'::text]))),
    CONSTRAINT leased_has_lease CHECK (((state = 'leased'::text) = (lease_until IS NOT NULL))),
    CONSTRAINT settled_has_moment CHECK (((state = ANY (ARRAY['delivered'::text, 'dead'::text])) = (settled_at IS NOT NULL)))
)
WITH (fillfactor='80', autovacuum_vacuum_scale_factor='0.01', autovacuum_vacuum_threshold='500', autovacuum_vacuum_cost_delay='0');

CREATE TABLE public.delivery_attempts (
    bucket smallint NOT NULL,
    delivery_id uuid NOT NULL,
    attempt integer NOT NULL,
    namespace smallint NOT NULL,
    outcome text NOT NULL,
    http_status smallint,
    latency_ms integer,
    error text,
    response_body bytea,
    at timestamp with time zone NOT NULL,
    CONSTRAINT delivery_attempts_outcome_check CHECK ((outcome = ANY (ARRAY['delivered'::text, 'failed'::text, 'refused'::text, 'unknown'::text])))
)
PARTITION BY RANGE (delivery_id);

CREATE TABLE public.delivery_attempts_default (
    bucket smallint CONSTRAINT delivery_attempts_bucket_not_null NOT NULL,
    delivery_id uuid CONSTRAINT delivery_attempts_delivery_id_not_null NOT NULL,
    attempt integer CONSTRAINT delivery_attempts_attempt_not_null NOT NULL,
    namespace smallint CONSTRAINT delivery_attempts_namespace_not_null NOT NULL,
    outcome text CONSTRAINT delivery_attempts_outcome_not_null NOT NULL,
    http_status smallint,
    latency_ms integer,
    error text,
    response_body bytea,
    at timestamp with time zone CONSTRAINT delivery_attempts_at_not_null NOT NULL,
    CONSTRAINT delivery_attempts_outcome_check CHECK ((outcome = ANY (ARRAY['delivered'::text, 'failed'::text, 'refused'::text, 'unknown'::text])))
);

CREATE TABLE public.ended_parents (
    bucket smallint NOT NULL,
    id uuid NOT NULL,
    namespace smallint NOT NULL,
    status text NOT NULL,
    at timestamp with time zone NOT NULL,
    CONSTRAINT ended_parents_status_check CHECK ((status = ANY (ARRAY['failed'::text, 'cancelled'::text, 'timeout'::text])))
);

CREATE TABLE public.endpoints (
    bucket smallint NOT NULL,
    id uuid NOT NULL,
    namespace smallint NOT NULL,
    slot smallint NOT NULL,
    name text NOT NULL,
    description text,
    url text NOT NULL,
    host text NOT NULL,
    events text[] NOT NULL,
    targets text[] NOT NULL,
    schedule double precision[] NOT NULL,
    secret_sealed bytea NOT NULL,
    previous_sealed bytea,
    previous_until timestamp with time zone,
    headers_sealed bytea,
    state text NOT NULL,
    disabled_at timestamp with time zone,
    disabled_by text,
    disabled_reason text,
    dead_streak integer DEFAULT 0 NOT NULL,
    failing_since timestamp with time zone,
    since_xid xid8 NOT NULL,
    created_at timestamp with time zone NOT NULL,
    updated_at timestamp with time zone NOT NULL,
    CONSTRAINT disabled_has_author CHECK (((state = 'disabled'::text) = (disabled_by IS NOT NULL))),
    CONSTRAINT disabled_has_moment CHECK (((state = 'disabled'::text) = (disabled_at IS NOT NULL))),
    CONSTRAINT endpoints_events_check CHECK ((cardinality(events) > 0)),
    CONSTRAINT endpoints_name_check CHECK ((name <> ''::text)),
    CONSTRAINT endpoints_schedule_check CHECK ((cardinality(schedule) > 0)),
    CONSTRAINT endpoints_slot_check CHECK ((slot > 0)),
    CONSTRAINT endpoints_state_check CHECK ((state = ANY (ARRAY['enabled'::text, 'disabled'::text]))),
    CONSTRAINT previous_has_an_end CHECK (((previous_sealed IS NULL) = (previous_until IS NULL)))
);

CREATE TABLE public.events (
    bucket smallint NOT NULL,
    execution_id uuid NOT NULL,
    seq bigint NOT NULL,
    xid xid8 DEFAULT pg_current_xact_id() NOT NULL,
    namespace smallint NOT NULL,
    run_id text NOT NULL,
    target text NOT NULL,
    type text NOT NULL,
    attempt integer NOT NULL,
    at timestamp with time zone NOT NULL,
    data bytea
)
PARTITION BY RANGE (execution_id);

CREATE TABLE public.events_default (
    bucket smallint CONSTRAINT events_bucket_not_null NOT NULL,
    execution_id uuid CONSTRAINT events_execution_id_not_null NOT NULL,
    seq bigint CONSTRAINT events_seq_not_null NOT NULL,
    xid xid8 DEFAULT pg_current_xact_id() CONSTRAINT events_xid_not_null NOT NULL,
    namespace smallint CONSTRAINT events_namespace_not_null NOT NULL,
    run_id text CONSTRAINT events_run_id_not_null NOT NULL,
    target text CONSTRAINT events_target_not_null NOT NULL,
    type text CONSTRAINT events_type_not_null NOT NULL,
    attempt integer CONSTRAINT events_attempt_not_null NOT NULL,
    at timestamp with time zone CONSTRAINT events_at_not_null NOT NULL,
    data bytea
);

ALTER TABLE public.events ALTER COLUMN seq ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.events_seq_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.executions (
    bucket smallint NOT NULL,
    id uuid NOT NULL,
    namespace smallint NOT NULL,
    run_id text NOT NULL,
    root_id uuid NOT NULL,
    parent_id uuid,
    source_execution_id uuid,
    target text NOT NULL,
    type text NOT NULL,
    input bytea NOT NULL,
    context bytea,
    session_key text,
    actor_key text,
    priority smallint NOT NULL,
    retries_max smallint NOT NULL,
    retry_delay_seconds double precision NOT NULL,
    retry_factor double precision NOT NULL,
    retry_cap_seconds double precision NOT NULL,
    timeout_seconds double precision,
    webhooks smallint NOT NULL,
    created_at timestamp with time zone NOT NULL,
    replay_source_run_id text,
    replay_before_id uuid,
    replay_mode text,
    retry_jitter double precision,
    fatal_errors text[],
    retry_errors text[],
    schedule_to_start_seconds double precision,
    total_seconds double precision,
    concurrency_key text,
    fairness_key text,
    heartbeat_seconds double precision,
    on_parent_end text,
    CONSTRAINT executions_retries_max_check CHECK ((retries_max >= 0)),
    CONSTRAINT executions_retry_cap_seconds_check CHECK (((retry_cap_seconds >= (0)::double precision) AND (retry_cap_seconds <= ('1000000000'::numeric)::double precision))),
    CONSTRAINT executions_retry_delay_seconds_check CHECK (((retry_delay_seconds >= (0)::double precision) AND (retry_delay_seconds <= ('1000000000'::numeric)::double precision))),
    CONSTRAINT executions_retry_factor_check CHECK (((retry_factor >= (1)::double precision) AND (retry_factor <= ('1000000000'::numeric)::double precision))),
    CONSTRAINT executions_timeout_seconds_check CHECK (((timeout_seconds > (0)::double precision) AND (timeout_seconds <= ('1000000000'::numeric)::double precision))),
    CONSTRAINT executions_type_check CHECK ((type = ANY (ARRAY['reasoner'::text, 'skill'::text])))
)
PARTITION BY RANGE (id);

CREATE TABLE public.executions_default (
    bucket smallint CONSTRAINT executions_bucket_not_null NOT NULL,
    id uuid CONSTRAINT executions_id_not_null NOT NULL,
    namespace smallint CONSTRAINT executions_namespace_not_null NOT NULL,
    run_id text CONSTRAINT executions_run_id_not_null NOT NULL,
    root_id uuid CONSTRAINT executions_root_id_not_null NOT NULL,
    parent_id uuid,
    source_execution_id uuid,
    target text CONSTRAINT executions_target_not_null NOT NULL,
    type text CONSTRAINT executions_type_not_null NOT NULL,
    input bytea CONSTRAINT executions_input_not_null NOT NULL,
    context bytea,
    session_key text,
    actor_key text,
    priority smallint CONSTRAINT executions_priority_not_null NOT NULL,
    retries_max smallint CONSTRAINT executions_retries_max_not_null NOT NULL,
    retry_delay_seconds double precision CONSTRAINT executions_retry_delay_seconds_not_null NOT NULL,
    retry_factor double precision CONSTRAINT executions_retry_factor_not_null NOT NULL,
    retry_cap_seconds double precision CONSTRAINT executions_retry_cap_seconds_not_null NOT NULL,
    timeout_seconds double precision,
    webhooks smallint CONSTRAINT executions_webhooks_not_null NOT NULL,
    created_at timestamp with time zone CONSTRAINT executions_created_at_not_null NOT NULL,
    replay_source_run_id text,
    replay_before_id uuid,
    replay_mode text,
    retry_jitter double precision,
    fatal_errors text[],
    retry_errors text[],
    schedule_to_start_seconds double precision,
    total_seconds double precision,
    concurrency_key text,
    fairness_key text,
    heartbeat_seconds double precision,
    on_parent_end text,
    CONSTRAINT executions_retries_max_check CHECK ((retries_max >= 0)),
    CONSTRAINT executions_retry_cap_seconds_check CHECK (((retry_cap_seconds >= (0)::double precision) AND (retry_cap_seconds <= ('1000000000'::numeric)::double precision))),
    CONSTRAINT executions_retry_delay_seconds_check CHECK (((retry_delay_seconds >= (0)::double precision) AND (retry_delay_seconds <= ('1000000000'::numeric)::double precision))),
    CONSTRAINT executions_retry_factor_check CHECK (((retry_factor >= (1)::double precision) AND (retry_factor <= ('1000000000'::numeric)::double precision))),
    CONSTRAINT executions_timeout_seconds_check CHECK (((timeout_seconds > (0)::double precision) AND (timeout_seconds <= ('1000000000'::numeric)::double precision))),
    CONSTRAINT executions_type_check CHECK ((type = ANY (ARRAY['reasoner'::text, 'skill'::text])))
);

CREATE TABLE public.idempotency_keys (
    bucket smallint NOT NULL,
    namespace smallint NOT NULL,
    scope text NOT NULL,
    key text NOT NULL,
    execution_id uuid NOT NULL,
    request_hash bytea NOT NULL,
    expires_at timestamp with time zone NOT NULL
);

CREATE TABLE public.limits (
    bucket smallint NOT NULL,
    namespace smallint NOT NULL,
    key text NOT NULL COLLATE pg_catalog."C",
    concurrency_max integer,
    rate_max integer,
    rate_seconds double precision,
    updated_at timestamp with time zone NOT NULL,
    declared_max integer,
    spent_at double precision[] DEFAULT '{}'::double precision[] NOT NULL,
    spent integer[] DEFAULT '{}'::integer[] NOT NULL,
    turn text DEFAULT ''::text NOT NULL,
    adopt_after uuid,
    adopt_passes smallint DEFAULT 0 NOT NULL,
    CONSTRAINT limits_concurrency_max_check CHECK ((concurrency_max >= 0)),
    CONSTRAINT limits_declared_max_check CHECK ((declared_max >= 0)),
    CONSTRAINT limits_rate_max_check CHECK ((rate_max >= 0)),
    CONSTRAINT limits_rate_seconds_check CHECK ((rate_seconds > (0)::double precision)),
    CONSTRAINT rate_is_whole CHECK (((rate_max IS NULL) = (rate_seconds IS NULL))),
    CONSTRAINT spent_is_whole CHECK ((cardinality(spent_at) = cardinality(spent)))
);

CREATE TABLE public.listeners (
    bucket smallint NOT NULL,
    execution_id uuid NOT NULL,
    namespace smallint NOT NULL
);

CREATE TABLE public.local_calls (
    bucket smallint NOT NULL,
    execution_id uuid NOT NULL,
    local_id text NOT NULL,
    namespace smallint NOT NULL,
    parent_local_id text,
    reasoner_id text NOT NULL,
    status text NOT NULL,
    input bytea,
    result bytea,
    error bytea,
    created_at timestamp with time zone NOT NULL,
    updated_at timestamp with time zone NOT NULL,
    status_reason text,
    duration_ms bigint
);

CREATE TABLE public.logs (
    bucket smallint NOT NULL,
    execution_id uuid NOT NULL,
    seq bigint NOT NULL,
    namespace smallint NOT NULL,
    attempt integer NOT NULL,
    at timestamp with time zone NOT NULL,
    level text NOT NULL,
    event_type text,
    source text,
    message text NOT NULL,
    attributes bytea
)
PARTITION BY RANGE (execution_id);

CREATE TABLE public.logs_default (
    bucket smallint CONSTRAINT logs_bucket_not_null NOT NULL,
    execution_id uuid CONSTRAINT logs_execution_id_not_null NOT NULL,
    seq bigint CONSTRAINT logs_seq_not_null NOT NULL,
    namespace smallint CONSTRAINT logs_namespace_not_null NOT NULL,
    attempt integer CONSTRAINT logs_attempt_not_null NOT NULL,
    at timestamp with time zone CONSTRAINT logs_at_not_null NOT NULL,
    level text CONSTRAINT logs_level_not_null NOT NULL,
    event_type text,
    source text,
    message text CONSTRAINT logs_message_not_null NOT NULL,
    attributes bytea
);

ALTER TABLE public.logs ALTER COLUMN seq ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.logs_seq_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.memory (
    bucket smallint NOT NULL,
    namespace smallint NOT NULL,
    scope text NOT NULL,
    scope_id text NOT NULL,
    key text NOT NULL,
    value bytea NOT NULL,
    length integer,
    appended integer DEFAULT 0 NOT NULL,
    version bigint DEFAULT 1 NOT NULL,
    writer_execution_id uuid,
    writer_attempt integer,
    created_at timestamp with time zone NOT NULL,
    updated_at timestamp with time zone NOT NULL,
    CONSTRAINT memory_appended_check CHECK ((appended >= 0)),
    CONSTRAINT memory_length_check CHECK ((length >= 0)),
    CONSTRAINT memory_scope_check CHECK ((scope = ANY (ARRAY['run'::text, 'session'::text, 'actor'::text, 'global'::text])))
)
WITH (fillfactor='80', autovacuum_vacuum_scale_factor='0.02', autovacuum_vacuum_cost_delay='0');

CREATE UNLOGGED TABLE public.memory_changes (
    bucket smallint NOT NULL,
    seq bigint NOT NULL,
    xid xid8 DEFAULT pg_current_xact_id() NOT NULL,
    namespace smallint NOT NULL,
    scope text NOT NULL,
    scope_id text NOT NULL,
    key text NOT NULL,
    action text NOT NULL,
    value bytea,
    previous bytea,
    run_id text,
    node_id text,
    actor_key text,
    at timestamp with time zone NOT NULL,
    CONSTRAINT memory_changes_action_check CHECK ((action = ANY (ARRAY['set'::text, 'append'::text, 'delete'::text])))
)
WITH (autovacuum_vacuum_scale_factor='0.05', autovacuum_vacuum_cost_delay='0');

ALTER TABLE ONLY public.memory_changes ALTER COLUMN value SET STORAGE EXTERNAL;

ALTER TABLE ONLY public.memory_changes ALTER COLUMN previous SET STORAGE EXTERNAL;

ALTER TABLE public.memory_changes ALTER COLUMN seq ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.memory_changes_seq_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.memory_items (
    bucket smallint NOT NULL,
    namespace smallint NOT NULL,
    scope text NOT NULL,
    scope_id text NOT NULL,
    key text NOT NULL,
    "position" integer NOT NULL,
    value bytea NOT NULL,
    CONSTRAINT memory_items_position_check CHECK (("position" >= 0))
);

CREATE TABLE public.memory_vectors (
    bucket smallint NOT NULL,
    namespace smallint NOT NULL,
    scope text NOT NULL,
    scope_id text NOT NULL,
    key text NOT NULL,
    embedding double precision[] NOT NULL,
    norm double precision NOT NULL,
    metadata bytea,
    created_at timestamp with time zone NOT NULL,
    updated_at timestamp with time zone NOT NULL,
    CONSTRAINT memory_vectors_norm_check CHECK ((norm > (0)::double precision)),
    CONSTRAINT memory_vectors_scope_check CHECK ((scope = ANY (ARRAY['run'::text, 'session'::text, 'actor'::text, 'global'::text])))
)
WITH (fillfactor='90', autovacuum_vacuum_scale_factor='0.02', autovacuum_vacuum_cost_delay='0');

CREATE TABLE public.namespaces (
    bucket smallint NOT NULL,
    id smallint NOT NULL,
    name text NOT NULL,
    created_at timestamp with time zone NOT NULL,
    CONSTRAINT namespaces_id_check CHECK ((id > 0))
);

CREATE TABLE public.nodes (
    bucket smallint NOT NULL,
    namespace smallint NOT NULL,
    id text NOT NULL,
    transport text NOT NULL,
    version text NOT NULL,
    base_url text,
    metadata bytea,
    registered_at timestamp with time zone NOT NULL,
    updated_at timestamp with time zone NOT NULL,
    left_at timestamp with time zone,
    CONSTRAINT nodes_transport_check CHECK ((transport = ANY (ARRAY['pull'::text, 'push'::text, 'serverless'::text])))
);

CREATE TABLE public.outcomes (
    bucket smallint NOT NULL,
    id uuid NOT NULL,
    namespace smallint NOT NULL,
    status text NOT NULL,
    status_reason text,
    result bytea,
    error bytea,
    error_class text,
    error_details bytea,
    attempt integer NOT NULL,
    failures smallint NOT NULL,
    progress bytea,
    started_at timestamp with time zone,
    finished_at timestamp with time zone NOT NULL,
    http_status smallint,
    CONSTRAINT outcomes_attempt_check CHECK ((attempt >= 0)),
    CONSTRAINT outcomes_status_check CHECK ((status = ANY (ARRAY['succeeded'::text, 'failed'::text, 'cancelled'::text, 'timeout'::text]))),
    CONSTRAINT succeeded_has_result CHECK (((status <> 'succeeded'::text) OR (result IS NOT NULL)))
)
PARTITION BY RANGE (id);

CREATE TABLE public.outcomes_default (
    bucket smallint CONSTRAINT outcomes_bucket_not_null NOT NULL,
    id uuid CONSTRAINT outcomes_id_not_null NOT NULL,
    namespace smallint CONSTRAINT outcomes_namespace_not_null NOT NULL,
    status text CONSTRAINT outcomes_status_not_null NOT NULL,
    status_reason text,
    result bytea,
    error bytea,
    error_class text,
    error_details bytea,
    attempt integer CONSTRAINT outcomes_attempt_not_null NOT NULL,
    failures smallint CONSTRAINT outcomes_failures_not_null NOT NULL,
    progress bytea,
    started_at timestamp with time zone,
    finished_at timestamp with time zone CONSTRAINT outcomes_finished_at_not_null NOT NULL,
    http_status smallint,
    CONSTRAINT outcomes_attempt_check CHECK ((attempt >= 0)),
    CONSTRAINT outcomes_status_check CHECK ((status = ANY (ARRAY['succeeded'::text, 'failed'::text, 'cancelled'::text, 'timeout'::text]))),
    CONSTRAINT succeeded_has_result CHECK (((status <> 'succeeded'::text) OR (result IS NOT NULL)))
);

CREATE TABLE public.pauses (
    bucket smallint NOT NULL,
    namespace smallint NOT NULL,
    node_id text NOT NULL,
    name text NOT NULL,
    scope text NOT NULL,
    reason text,
    paused_by text,
    paused_at timestamp with time zone NOT NULL,
    CONSTRAINT pauses_scope_check CHECK ((scope = ANY (ARRAY['all'::text, 'node'::text, 'reasoner'::text]))),
    CONSTRAINT scope_tells_the_name CHECK (
CASE scope
    WHEN 'all'::text THEN ((node_id = ''::text) AND (name = ''::text))
    WHEN 'node'::text THEN ((node_id <> ''::text) AND (name = node_id))
    ELSE ((node_id <> ''::text) AND starts_with(name, (node_id || '.'::text)))
END)
);

CREATE TABLE public.queue (
    bucket smallint NOT NULL,
    id uuid NOT NULL,
    namespace smallint NOT NULL,
    target text NOT NULL,
    run_id text NOT NULL,
    state text NOT NULL,
    priority smallint NOT NULL,
    available_at timestamp with time zone NOT NULL,
    attempt integer DEFAULT 0 NOT NULL,
    failures smallint DEFAULT 0 NOT NULL,
    crashes smallint DEFAULT 0 NOT NULL,
    retries_max smallint NOT NULL,
    webhooks smallint NOT NULL,
    timeout_seconds double precision,
    session_id uuid,
    leased_at timestamp with time zone,
    started_at timestamp with time zone,
    deadline_at timestamp with time zone,
    cancel_requested_at timestamp with time zone,
    cancel_reason text,
    pause_requested boolean DEFAULT false NOT NULL,
    status_reason text,
    progress bytea,
    progress_at timestamp with time zone,
    parent_id uuid,
    sent_at timestamp with time zone,
    accepted_at timestamp with time zone,
    waiting_at timestamp with time zone,
    remaining_seconds double precision,
    total_deadline_at timestamp with time zone,
    line text,
    limited boolean DEFAULT false NOT NULL,
    concurrency_key text,
    fairness_key text,
    waits_until text,
    waits_reason text,
    heartbeat_seconds double precision,
    attempt_deadline_at timestamp with time zone,
    on_parent_end text,
    CONSTRAINT leased_has_session CHECK (((state <> 'leased'::text) OR ((session_id IS NOT NULL) AND (leased_at IS NOT NULL)))),
    CONSTRAINT queue_attempt_check CHECK ((attempt >= 0)),
    CONSTRAINT queue_crashes_check CHECK ((crashes >= 0)),
    CONSTRAINT queue_failures_check CHECK ((failures >= 0)),
    CONSTRAINT queue_state_check CHECK ((state = ANY (ARRAY['ready'::text, 'delayed'::text, 'leased'::text, 'waiting'::text, 'paused'::text, 'blocked'::text]))),
    CONSTRAINT resting_has_no_session CHECK (((state = ANY (ARRAY['leased'::text, 'waiting'::text])) OR (session_id IS NULL))),
    CONSTRAINT session_has_attempt CHECK (((session_id IS NULL) OR (attempt > 0)))
)
WITH (fillfactor='70', autovacuum_vacuum_scale_factor='0.01', autovacuum_vacuum_threshold='500', autovacuum_vacuum_cost_delay='0', autovacuum_analyze_scale_factor='0.05');

CREATE TABLE public.reasoners (
    bucket smallint NOT NULL,
    namespace smallint NOT NULL,
    target text NOT NULL,
    node_id text NOT NULL,
    reasoner_id text NOT NULL,
    type text NOT NULL,
    description text,
    tags text[] DEFAULT '{}'::text[] NOT NULL,
    input_schema bytea,
    output_schema bytea,
    retries_max smallint NOT NULL,
    retry_delay_seconds double precision NOT NULL,
    retry_factor double precision NOT NULL,
    retry_cap_seconds double precision NOT NULL,
    timeout_seconds double precision,
    registered_at timestamp with time zone NOT NULL,
    updated_at timestamp with time zone NOT NULL,
    retry_jitter double precision,
    fatal_errors text[],
    retry_errors text[],
    concurrency_key text,
    schedule_to_start_seconds double precision,
    total_seconds double precision,
    heartbeat_seconds double precision,
    on_parent_end text,
    CONSTRAINT reasoners_retries_max_check CHECK ((retries_max >= 0)),
    CONSTRAINT reasoners_type_check CHECK ((type = ANY (ARRAY['reasoner'::text, 'skill'::text])))
);

CREATE TABLE public.retention_walks (
    bucket smallint NOT NULL,
    subject text NOT NULL,
    namespace smallint DEFAULT 0 NOT NULL,
    status text,
    after_id uuid DEFAULT '00000000-0000-0000-0000-000000000000'::uuid NOT NULL,
    rests_until timestamp with time zone,
    CONSTRAINT retention_walks_status_check CHECK ((status = ANY (ARRAY['succeeded'::text, 'failed'::text, 'cancelled'::text, 'timeout'::text]))),
    CONSTRAINT retention_walks_subject_check CHECK ((subject = ANY (ARRAY['executions'::text, 'events'::text, 'logs'::text])))
);

CREATE TABLE public.schedule_ticks (
    bucket smallint NOT NULL,
    schedule_id uuid NOT NULL,
    planned_at timestamp with time zone NOT NULL,
    by_hand boolean NOT NULL,
    namespace smallint NOT NULL,
    outcome text NOT NULL,
    until_at timestamp with time zone,
    execution_id uuid,
    open boolean NOT NULL,
    at timestamp with time zone NOT NULL,
    CONSTRAINT missed_has_an_end CHECK (((outcome = 'missed'::text) = (until_at IS NOT NULL))),
    CONSTRAINT open_has_execution CHECK (((NOT open) OR (execution_id IS NOT NULL))),
    CONSTRAINT schedule_ticks_outcome_check CHECK ((outcome = ANY (ARRAY['submitted'::text, 'waiting'::text, 'skipped'::text, 'missed'::text]))),
    CONSTRAINT submitted_has_execution CHECK (((outcome = 'submitted'::text) = (execution_id IS NOT NULL)))
);

CREATE TABLE public.schedules (
    bucket smallint NOT NULL,
    id uuid NOT NULL,
    namespace smallint NOT NULL,
    name text NOT NULL,
    target text NOT NULL,
    input bytea NOT NULL,
    cron text,
    interval_seconds double precision,
    time_zone text DEFAULT 'UTC'::text NOT NULL,
    paused boolean DEFAULT false NOT NULL,
    next_at timestamp with time zone,
    last_at timestamp with time zone,
    created_at timestamp with time zone NOT NULL,
    updated_at timestamp with time zone NOT NULL,
    run_at timestamp with time zone,
    anchor_at timestamp with time zone DEFAULT public.clock() NOT NULL,
    context bytea,
    overlap text DEFAULT 'skip'::text NOT NULL,
    catch_up text DEFAULT 'one'::text NOT NULL,
    jitter_seconds double precision DEFAULT 0 NOT NULL,
    priority smallint DEFAULT 0 NOT NULL,
    retries_max smallint,
    timeout_seconds double precision,
    due_at timestamp with time zone,
    waiting smallint DEFAULT 0 NOT NULL,
    CONSTRAINT one_way_to_say_when CHECK ((num_nonnulls(cron, interval_seconds, run_at) = 1)),
    CONSTRAINT planned_comes_due CHECK ((((next_at IS NULL) = (due_at IS NULL)) AND (due_at >= next_at))),
    CONSTRAINT schedules_catch_up_check CHECK ((catch_up = ANY (ARRAY['none'::text, 'one'::text, 'all'::text]))),
    CONSTRAINT schedules_interval_seconds_check CHECK ((interval_seconds > (0)::double precision)),
    CONSTRAINT schedules_jitter_seconds_check CHECK (((jitter_seconds >= (0)::double precision) AND (jitter_seconds <= ('1000000000'::numeric)::double precision))),
    CONSTRAINT schedules_overlap_check CHECK ((overlap = ANY (ARRAY['skip'::text, 'queue'::text, 'cancel_other'::text]))),
    CONSTRAINT schedules_retries_max_check CHECK ((retries_max >= 0)),
    CONSTRAINT schedules_timeout_seconds_check CHECK (((timeout_seconds > (0)::double precision) AND (timeout_seconds <= ('1000000000'::numeric)::double precision))),
    CONSTRAINT schedules_waiting_check CHECK ((waiting >= 0))
);

CREATE TABLE public.sessions (
    bucket smallint NOT NULL,
    id uuid NOT NULL,
    namespace smallint NOT NULL,
    node_id text NOT NULL,
    instance_id text NOT NULL,
    slots integer NOT NULL,
    heartbeat_seconds double precision NOT NULL,
    lease_seconds double precision NOT NULL,
    running integer DEFAULT 0 NOT NULL,
    draining boolean DEFAULT false NOT NULL,
    opened_at timestamp with time zone NOT NULL,
    renewed_at timestamp with time zone NOT NULL,
    expires_at timestamp with time zone NOT NULL,
    closed_at timestamp with time zone,
    closed_reason text,
    transport text DEFAULT 'pull'::text NOT NULL,
    base_url text,
    acknowledges boolean DEFAULT false NOT NULL,
    start_to_close_seconds double precision,
    drain_requested_at timestamp with time zone,
    drain_requested_by text,
    drain_reason text,
    CONSTRAINT called_has_address CHECK (((transport = 'pull'::text) = (base_url IS NULL))),
    CONSTRAINT sessions_heartbeat_seconds_check CHECK ((heartbeat_seconds > (0)::double precision)),
    CONSTRAINT sessions_lease_seconds_check CHECK ((lease_seconds > (0)::double precision)),
    CONSTRAINT sessions_slots_check CHECK ((slots > 0)),
    CONSTRAINT transport_is_known CHECK ((transport = ANY (ARRAY['pull'::text, 'push'::text, 'serverless'::text])))
)
WITH (fillfactor='50', autovacuum_vacuum_scale_factor='0.05', autovacuum_vacuum_cost_delay='0');

CREATE TABLE public.signals (
    bucket smallint NOT NULL,
    execution_id uuid NOT NULL,
    seq bigint NOT NULL,
    id uuid NOT NULL,
    namespace smallint NOT NULL,
    event text NOT NULL,
    payload bytea NOT NULL,
    idempotency_key text,
    request_hash bytea NOT NULL,
    step text,
    received_at timestamp with time zone NOT NULL,
    consumed_at timestamp with time zone,
    CONSTRAINT consumed_by_a_step CHECK (((consumed_at IS NULL) = (step IS NULL)))
);

ALTER TABLE public.signals ALTER COLUMN seq ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.signals_seq_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.steps (
    bucket smallint NOT NULL,
    execution_id uuid NOT NULL,
    name text NOT NULL,
    namespace smallint NOT NULL,
    kind text NOT NULL,
    status text NOT NULL,
    value bytea,
    attempt integer NOT NULL,
    due_at timestamp with time zone,
    timed_out boolean DEFAULT false NOT NULL,
    event text,
    request_id text,
    child_id uuid,
    awaited boolean DEFAULT false NOT NULL,
    news boolean DEFAULT false NOT NULL,
    created_at timestamp with time zone NOT NULL,
    done_at timestamp with time zone,
    CONSTRAINT call_has_child CHECK (((kind = 'call'::text) = (child_id IS NOT NULL))),
    CONSTRAINT news_is_awaited CHECK (((NOT news) OR (awaited AND (status <> 'pending'::text)))),
    CONSTRAINT settled_has_moment CHECK (((status = 'pending'::text) = (done_at IS NULL))),
    CONSTRAINT steps_kind_check CHECK ((kind = ANY (ARRAY['step'::text, 'sleep'::text, 'event'::text, 'approval'::text, 'call'::text]))),
    CONSTRAINT steps_status_check CHECK ((status = ANY (ARRAY['pending'::text, 'done'::text, 'failed'::text])))
)
WITH (fillfactor='90', autovacuum_vacuum_scale_factor='0.05', autovacuum_vacuum_cost_delay='0');

CREATE TABLE public.tickets (
    bucket smallint NOT NULL,
    hash bytea NOT NULL,
    namespace smallint NOT NULL,
    path text NOT NULL,
    key_id uuid,
    expires_at timestamp with time zone NOT NULL,
    CONSTRAINT tickets_hash_check CHECK ((length(hash) = 32))
);

CREATE TABLE public.trigger_events (
    bucket smallint NOT NULL,
    id uuid NOT NULL,
    trigger_id uuid NOT NULL,
    namespace smallint NOT NULL,
    key text NOT NULL,
    type text,
    outcome text NOT NULL,
    reason text,
    execution_id uuid,
    replay_execution_id uuid,
    replays integer DEFAULT 0 NOT NULL,
    body bytea NOT NULL,
    headers text NOT NULL,
    at timestamp with time zone NOT NULL,
    CONSTRAINT replayed_has_execution CHECK (((replays > 0) = (replay_execution_id IS NOT NULL))),
    CONSTRAINT submitted_has_execution CHECK (((outcome = 'submitted'::text) = (execution_id IS NOT NULL))),
    CONSTRAINT trigger_events_key_check CHECK ((key <> ''::text)),
    CONSTRAINT trigger_events_outcome_check CHECK ((outcome = ANY (ARRAY['submitted'::text, 'filtered'::text, 'held'::text, 'rejected'::text])))
);

CREATE TABLE public.triggers (
    bucket smallint NOT NULL,
    id uuid NOT NULL,
    namespace smallint NOT NULL,
    name text NOT NULL,
    target text NOT NULL,
    preset text NOT NULL,
    scheme text NOT NULL,
    arguments text NOT NULL,
    event_types text[] NOT NULL,
    secret_sealed bytea NOT NULL,
    previous_sealed bytea,
    previous_until timestamp with time zone,
    managed_by text,
    paused boolean NOT NULL,
    paused_reason text,
    created_at timestamp with time zone NOT NULL,
    updated_at timestamp with time zone NOT NULL,
    CONSTRAINT paused_has_the_reason CHECK ((paused OR (paused_reason IS NULL))),
    CONSTRAINT previous_has_an_end CHECK (((previous_sealed IS NULL) = (previous_until IS NULL))),
    CONSTRAINT triggers_name_check CHECK ((name <> ''::text)),
    CONSTRAINT triggers_preset_check CHECK ((preset = ANY (ARRAY['github'::text, 'stripe'::text, 'slack'::text, 'standard'::text, 'hmac'::text, 'bearer'::text])))
);

CREATE TABLE public.webhooks (
    bucket smallint NOT NULL,
    execution_id uuid NOT NULL,
    n smallint NOT NULL,
    namespace smallint NOT NULL,
    url text NOT NULL,
    host text NOT NULL,
    secret_sealed bytea,
    headers_sealed bytea,
    attempts_max smallint NOT NULL,
    created_at timestamp with time zone NOT NULL,
    events text[],
    CONSTRAINT webhooks_attempts_max_check CHECK ((attempts_max > 0))
);

ALTER TABLE ONLY public.delivery_attempts ATTACH PARTITION public.delivery_attempts_default DEFAULT;

ALTER TABLE ONLY public.events ATTACH PARTITION public.events_default DEFAULT;

ALTER TABLE ONLY public.executions ATTACH PARTITION public.executions_default DEFAULT;

ALTER TABLE ONLY public.logs ATTACH PARTITION public.logs_default DEFAULT;

ALTER TABLE ONLY public.outcomes ATTACH PARTITION public.outcomes_default DEFAULT;

ALTER TABLE ONLY public.alembic_version
    ADD CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num);

ALTER TABLE public.deliveries
    ADD CONSTRAINT announced_has_event CHECK (((webhook_n IS NULL) = (event_seq IS NOT NULL))) NOT VALID;

ALTER TABLE ONLY public.announced
    ADD CONSTRAINT announced_pkey PRIMARY KEY (bucket);

ALTER TABLE ONLY public.api_keys
    ADD CONSTRAINT api_keys_bucket_prefix_key UNIQUE (bucket, prefix);

ALTER TABLE ONLY public.api_keys
    ADD CONSTRAINT api_keys_pkey PRIMARY KEY (bucket, id);

ALTER TABLE ONLY public.approvals
    ADD CONSTRAINT approvals_pkey PRIMARY KEY (bucket, execution_id, request_id);

ALTER TABLE ONLY public.audit_heads
    ADD CONSTRAINT audit_heads_pkey PRIMARY KEY (bucket, namespace);

ALTER TABLE ONLY public.audit
    ADD CONSTRAINT audit_once UNIQUE (bucket, id);

ALTER TABLE ONLY public.audit
    ADD CONSTRAINT audit_pkey PRIMARY KEY (bucket, namespace, seq);

ALTER TABLE public.queue
    ADD CONSTRAINT blocked_has_line CHECK (((state <> 'blocked'::text) OR (line IS NOT NULL))) NOT VALID;

ALTER TABLE ONLY public.breakers
    ADD CONSTRAINT breakers_pkey PRIMARY KEY (bucket, host, namespace);

ALTER TABLE ONLY public.bulks
    ADD CONSTRAINT bulks_pkey PRIMARY KEY (bucket, id);

ALTER TABLE ONLY public.caps
    ADD CONSTRAINT caps_pkey PRIMARY KEY (bucket, namespace, name);

ALTER TABLE ONLY public.census
    ADD CONSTRAINT census_pkey PRIMARY KEY (bucket, namespace, name);

ALTER TABLE ONLY public.deliveries
    ADD CONSTRAINT deliveries_pkey PRIMARY KEY (bucket, id);

ALTER TABLE ONLY public.delivery_attempts
    ADD CONSTRAINT delivery_attempts_pkey PRIMARY KEY (bucket, delivery_id, attempt);

ALTER TABLE ONLY public.delivery_attempts_default
    ADD CONSTRAINT delivery_attempts_default_pkey PRIMARY KEY (bucket, delivery_id, attempt);

ALTER TABLE ONLY public.ended_parents
    ADD CONSTRAINT ended_parents_pkey PRIMARY KEY (bucket, at, id);

ALTER TABLE ONLY public.endpoints
    ADD CONSTRAINT endpoints_bucket_namespace_name_key UNIQUE (bucket, namespace, name);

ALTER TABLE ONLY public.endpoints
    ADD CONSTRAINT endpoints_bucket_namespace_slot_key UNIQUE (bucket, namespace, slot);

ALTER TABLE ONLY public.endpoints
    ADD CONSTRAINT endpoints_pkey PRIMARY KEY (bucket, id);

ALTER TABLE ONLY public.events
    ADD CONSTRAINT events_pkey PRIMARY KEY (bucket, execution_id, seq);

ALTER TABLE ONLY public.events_default
    ADD CONSTRAINT events_default_pkey PRIMARY KEY (bucket, execution_id, seq);

ALTER TABLE ONLY public.executions
    ADD CONSTRAINT executions_pkey PRIMARY KEY (bucket, id);

ALTER TABLE ONLY public.executions_default
    ADD CONSTRAINT executions_default_pkey PRIMARY KEY (bucket, id);

ALTER TABLE public.executions
    ADD CONSTRAINT executions_heartbeat_seconds_check CHECK (((heartbeat_seconds > (0)::double precision) AND (heartbeat_seconds <= ('1000000000'::numeric)::double precision))) NOT VALID;

ALTER TABLE public.executions
    ADD CONSTRAINT executions_on_parent_end_check CHECK ((on_parent_end = ANY (ARRAY['cancel'::text, 'keep'::text]))) NOT VALID;

ALTER TABLE public.executions
    ADD CONSTRAINT executions_retry_jitter_check CHECK (((retry_jitter >= (0)::double precision) AND (retry_jitter <= (1)::double precision))) NOT VALID;

ALTER TABLE public.executions
    ADD CONSTRAINT executions_schedule_to_start_seconds_check CHECK (((schedule_to_start_seconds > (0)::double precision) AND (schedule_to_start_seconds <= ('1000000000'::numeric)::double precision))) NOT VALID;

ALTER TABLE public.executions
    ADD CONSTRAINT executions_total_seconds_check CHECK (((total_seconds > (0)::double precision) AND (total_seconds <= ('1000000000'::numeric)::double precision))) NOT VALID;

ALTER TABLE ONLY public.idempotency_keys
    ADD CONSTRAINT idempotency_keys_pkey PRIMARY KEY (bucket, namespace, scope, key);

ALTER TABLE ONLY public.limits
    ADD CONSTRAINT limits_pkey PRIMARY KEY (bucket, namespace, key);

ALTER TABLE ONLY public.listeners
    ADD CONSTRAINT listeners_pkey PRIMARY KEY (bucket, execution_id);

ALTER TABLE ONLY public.local_calls
    ADD CONSTRAINT local_calls_pkey PRIMARY KEY (bucket, execution_id, local_id);

ALTER TABLE ONLY public.logs
    ADD CONSTRAINT logs_pkey PRIMARY KEY (bucket, execution_id, seq);

ALTER TABLE ONLY public.logs_default
    ADD CONSTRAINT logs_default_pkey PRIMARY KEY (bucket, execution_id, seq);

ALTER TABLE ONLY public.memory_changes
    ADD CONSTRAINT memory_changes_pkey PRIMARY KEY (bucket, xid, seq);

ALTER TABLE ONLY public.memory_items
    ADD CONSTRAINT memory_items_pkey PRIMARY KEY (bucket, namespace, scope, scope_id, key, "position");

ALTER TABLE ONLY public.memory
    ADD CONSTRAINT memory_pkey PRIMARY KEY (bucket, namespace, scope, scope_id, key);

ALTER TABLE ONLY public.memory_vectors
    ADD CONSTRAINT memory_vectors_pkey PRIMARY KEY (bucket, namespace, scope, scope_id, key);

ALTER TABLE ONLY public.namespaces
    ADD CONSTRAINT namespaces_bucket_name_key UNIQUE (bucket, name);

ALTER TABLE ONLY public.namespaces
    ADD CONSTRAINT namespaces_pkey PRIMARY KEY (bucket, id);

ALTER TABLE ONLY public.nodes
    ADD CONSTRAINT nodes_pkey PRIMARY KEY (bucket, namespace, id);

ALTER TABLE ONLY public.deliveries
    ADD CONSTRAINT one_delivery_per_webhook_and_event UNIQUE (bucket, execution_id, webhook_n, event);

ALTER TABLE ONLY public.outcomes
    ADD CONSTRAINT outcomes_pkey PRIMARY KEY (bucket, id);

ALTER TABLE ONLY public.outcomes_default
    ADD CONSTRAINT outcomes_default_pkey PRIMARY KEY (bucket, id);

ALTER TABLE ONLY public.pauses
    ADD CONSTRAINT pauses_pkey PRIMARY KEY (bucket, namespace, node_id, name);

ALTER TABLE ONLY public.queue
    ADD CONSTRAINT queue_pkey PRIMARY KEY (bucket, id);

ALTER TABLE public.queue
    ADD CONSTRAINT queue_waits_until_check CHECK ((waits_until = ANY (ARRAY['any'::text, 'all'::text]))) NOT VALID;

ALTER TABLE ONLY public.reasoners
    ADD CONSTRAINT reasoners_pkey PRIMARY KEY (bucket, namespace, target);

ALTER TABLE public.executions
    ADD CONSTRAINT replay_mode_is_known CHECK ((replay_mode = ANY (ARRAY['succeeded-before'::text, 'all-succeeded'::text, 'none'::text]))) NOT VALID;

ALTER TABLE ONLY public.retention_walks
    ADD CONSTRAINT retention_walks_pkey PRIMARY KEY (bucket, subject);

ALTER TABLE ONLY public.schedule_ticks
    ADD CONSTRAINT schedule_ticks_pkey PRIMARY KEY (bucket, schedule_id, planned_at, by_hand);

ALTER TABLE ONLY public.schedules
    ADD CONSTRAINT schedules_bucket_namespace_name_key UNIQUE (bucket, namespace, name);

ALTER TABLE ONLY public.schedules
    ADD CONSTRAINT schedules_pkey PRIMARY KEY (bucket, id);

ALTER TABLE ONLY public.sessions
    ADD CONSTRAINT sessions_pkey PRIMARY KEY (bucket, id);

ALTER TABLE ONLY public.signals
    ADD CONSTRAINT signals_pkey PRIMARY KEY (bucket, execution_id, seq);

ALTER TABLE ONLY public.steps
    ADD CONSTRAINT steps_pkey PRIMARY KEY (bucket, execution_id, name);

ALTER TABLE public.queue
    ADD CONSTRAINT suspended_has_no_session CHECK (((waits_until IS NULL) OR ((session_id IS NULL) AND (waits_reason IS NOT NULL) AND (state = ANY (ARRAY['waiting'::text, 'paused'::text]))))) NOT VALID;

ALTER TABLE ONLY public.tickets
    ADD CONSTRAINT tickets_pkey PRIMARY KEY (bucket, hash);

ALTER TABLE public.deliveries
    ADD CONSTRAINT to_one_of_three CHECK ((num_nonnulls(webhook_n, endpoint_id, heard_n) = 1)) NOT VALID;

ALTER TABLE ONLY public.trigger_events
    ADD CONSTRAINT trigger_events_bucket_trigger_id_key_key UNIQUE (bucket, trigger_id, key);

ALTER TABLE ONLY public.trigger_events
    ADD CONSTRAINT trigger_events_pkey PRIMARY KEY (bucket, id);

ALTER TABLE ONLY public.triggers
    ADD CONSTRAINT triggers_bucket_namespace_name_key UNIQUE (bucket, namespace, name);

ALTER TABLE ONLY public.triggers
    ADD CONSTRAINT triggers_pkey PRIMARY KEY (bucket, id);

ALTER TABLE ONLY public.webhooks
    ADD CONSTRAINT webhooks_pkey PRIMARY KEY (bucket, execution_id, n);

CREATE INDEX api_keys_namespace ON public.api_keys USING btree (bucket, namespace, id);

CREATE INDEX approvals_expiry ON public.approvals USING btree (bucket, expires_at) WHERE (status = 'pending'::text);

CREATE UNIQUE INDEX approvals_held ON public.approvals USING btree (bucket, execution_id) WHERE ((status = 'pending'::text) AND (NOT durable));

CREATE INDEX approvals_pending ON public.approvals USING btree (bucket, execution_id) WHERE (status = 'pending'::text);

CREATE INDEX approvals_request ON public.approvals USING btree (bucket, namespace, request_id);

CREATE INDEX breakers_changed ON public.breakers USING btree (bucket, changed_at) WHERE (failures >= 0);

CREATE INDEX breakers_opened ON public.breakers USING btree (bucket, opened_at) WHERE (opened_at IS NOT NULL);

CREATE INDEX bulks_ended ON public.bulks USING btree (bucket, ended_at) WHERE (ended_at IS NOT NULL);

CREATE INDEX bulks_running ON public.bulks USING btree (bucket, moved_at) WHERE (state = 'running'::text);

CREATE INDEX deliveries_dead ON public.deliveries USING btree (bucket, id) WHERE (state = 'dead'::text);

CREATE INDEX deliveries_due ON public.deliveries USING btree (bucket, host, namespace, next_at) WHERE (state = 'pending'::text);

CREATE UNIQUE INDEX deliveries_endpoint ON public.deliveries USING btree (bucket, endpoint_id, event_seq) WHERE (endpoint_id IS NOT NULL);

CREATE INDEX deliveries_feed ON public.deliveries USING btree (bucket, namespace, xid, id) WHERE (xid IS NOT NULL);

CREATE UNIQUE INDEX deliveries_heard ON public.deliveries USING btree (bucket, execution_id, heard_n, event_seq) WHERE (heard_n IS NOT NULL);

CREATE INDEX deliveries_leased ON public.deliveries USING btree (bucket, lease_until) WHERE (state = 'leased'::text);

CREATE INDEX deliveries_parked ON public.deliveries USING btree (bucket, endpoint_id, id) WHERE ((state = 'pending'::text) AND (next_at = 'infinity'::timestamp with time zone) AND (endpoint_id IS NOT NULL));

CREATE INDEX deliveries_settled ON public.deliveries USING btree (bucket, state, settled_at) WHERE (settled_at IS NOT NULL);

CREATE INDEX events_stream ON ONLY public.events USING btree (bucket, xid, seq);

CREATE INDEX events_default_bucket_xid_seq_idx ON public.events_default USING btree (bucket, xid, seq);

CREATE INDEX executions_parent ON ONLY public.executions USING btree (bucket, parent_id) WHERE (parent_id IS NOT NULL);

CREATE INDEX executions_default_bucket_parent_id_idx ON public.executions_default USING btree (bucket, parent_id) WHERE (parent_id IS NOT NULL);

CREATE INDEX executions_replay_source ON ONLY public.executions USING btree (bucket, replay_source_run_id) WHERE (replay_source_run_id IS NOT NULL);

CREATE INDEX executions_default_bucket_replay_source_run_id_idx ON public.executions_default USING btree (bucket, replay_source_run_id) WHERE (replay_source_run_id IS NOT NULL);

CREATE INDEX executions_run ON ONLY public.executions USING btree (bucket, run_id);

CREATE INDEX executions_default_bucket_run_id_idx ON public.executions_default USING btree (bucket, run_id);

CREATE INDEX executions_source ON ONLY public.executions USING btree (bucket, source_execution_id) WHERE (source_execution_id IS NOT NULL);

CREATE INDEX executions_default_bucket_source_execution_id_idx ON public.executions_default USING btree (bucket, source_execution_id) WHERE (source_execution_id IS NOT NULL);

CREATE INDEX idempotency_keys_execution ON public.idempotency_keys USING btree (bucket, execution_id);

CREATE INDEX idempotency_keys_expiry ON public.idempotency_keys USING btree (bucket, expires_at);

CREATE INDEX limits_adopting ON public.limits USING btree (bucket, namespace, key) WHERE (adopt_passes > 0);

CREATE INDEX local_calls_local ON public.local_calls USING btree (bucket, namespace, local_id);

CREATE INDEX memory_changes_at ON public.memory_changes USING btree (bucket, at);

CREATE INDEX outcomes_status ON ONLY public.outcomes USING btree (bucket, namespace, status, id);

CREATE INDEX outcomes_default_bucket_namespace_status_id_idx ON public.outcomes_default USING btree (bucket, namespace, status, id);

CREATE INDEX queue_accepted ON public.queue USING btree (bucket, accepted_at) WHERE (accepted_at IS NOT NULL);

CREATE INDEX queue_blocked ON public.queue USING btree (bucket, namespace, line, priority DESC, COALESCE(fairness_key, ''::text) COLLATE "C", available_at, id) WHERE (state = 'blocked'::text);

CREATE INDEX queue_cancel ON public.queue USING btree (bucket, cancel_requested_at) WHERE (cancel_requested_at IS NOT NULL);

CREATE INDEX queue_deadline ON public.queue USING btree (bucket, deadline_at) WHERE (deadline_at IS NOT NULL);

CREATE INDEX queue_delayed ON public.queue USING btree (bucket, available_at) WHERE (state = 'delayed'::text);

CREATE INDEX queue_held ON public.queue USING btree (bucket, namespace, target COLLATE "C", id) WHERE (limited AND (state = ANY (ARRAY['ready'::text, 'leased'::text])));

CREATE INDEX queue_held_key ON public.queue USING btree (bucket, namespace, concurrency_key, id) WHERE ((concurrency_key IS NOT NULL) AND (state = ANY (ARRAY['ready'::text, 'leased'::text])));

CREATE INDEX queue_parent ON public.queue USING btree (bucket, parent_id) WHERE (parent_id IS NOT NULL);

CREATE INDEX queue_ready ON public.queue USING btree (bucket, namespace, target, priority DESC, available_at, id) WHERE (state = 'ready'::text);

CREATE INDEX queue_session ON public.queue USING btree (bucket, session_id) WHERE (state = ANY (ARRAY['leased'::text, 'waiting'::text]));

CREATE INDEX queue_turn ON public.queue USING btree (bucket, namespace, target, fairness_key) WHERE ((state = 'ready'::text) AND (fairness_key IS NOT NULL));

CREATE INDEX queue_unaccepted ON public.queue USING btree (bucket, sent_at) WHERE ((sent_at IS NOT NULL) AND (accepted_at IS NULL));

CREATE UNIQUE INDEX schedule_ticks_execution ON public.schedule_ticks USING btree (bucket, execution_id) WHERE (execution_id IS NOT NULL);

CREATE INDEX schedule_ticks_open ON public.schedule_ticks USING btree (bucket, schedule_id) WHERE open;

CREATE INDEX schedule_ticks_over ON public.schedule_ticks USING btree (bucket, at) WHERE ((NOT open) AND (outcome <> 'waiting'::text));

CREATE INDEX schedule_ticks_waiting ON public.schedule_ticks USING btree (bucket, schedule_id, planned_at) WHERE (outcome = 'waiting'::text);

CREATE INDEX schedules_due ON public.schedules USING btree (bucket, due_at) WHERE ((NOT paused) AND (due_at IS NOT NULL));

CREATE INDEX schedules_waiting ON public.schedules USING btree (bucket, id) WHERE ((NOT paused) AND (waiting > 0));

CREATE INDEX sessions_called ON public.sessions USING btree (bucket, id) WHERE ((closed_at IS NULL) AND (base_url IS NOT NULL));

CREATE INDEX sessions_closed ON public.sessions USING btree (bucket, closed_at) WHERE (closed_at IS NOT NULL);

CREATE INDEX sessions_node ON public.sessions USING btree (bucket, namespace, node_id) WHERE (closed_at IS NULL);

CREATE UNIQUE INDEX sessions_process ON public.sessions USING btree (bucket, namespace, node_id, base_url, instance_id) WHERE ((closed_at IS NULL) AND (base_url IS NOT NULL));

CREATE UNIQUE INDEX signals_key ON public.signals USING btree (bucket, execution_id, idempotency_key) WHERE (idempotency_key IS NOT NULL);

CREATE INDEX signals_open ON public.signals USING btree (bucket, execution_id, event, seq) WHERE (consumed_at IS NULL);

CREATE INDEX steps_awaited ON public.steps USING btree (bucket, execution_id) WHERE (awaited AND (status = 'pending'::text));

CREATE INDEX steps_child ON public.steps USING btree (bucket, child_id) WHERE ((status = 'pending'::text) AND (child_id IS NOT NULL));

CREATE INDEX steps_due ON public.steps USING btree (bucket, due_at) WHERE ((status = 'pending'::text) AND (due_at IS NOT NULL) AND (kind <> 'approval'::text));

CREATE INDEX steps_news ON public.steps USING btree (bucket, execution_id) WHERE news;

CREATE INDEX steps_open ON public.steps USING btree (bucket, execution_id, name) WHERE ((status = 'pending'::text) OR awaited);

CREATE INDEX tickets_expiry ON public.tickets USING btree (bucket, expires_at);

CREATE INDEX trigger_events_newest ON public.trigger_events USING btree (bucket, trigger_id, id DESC) WHERE (replays >= 0);

CREATE INDEX trigger_events_over ON public.trigger_events USING btree (bucket, at) WHERE (at IS NOT NULL);

CREATE INDEX webhooks_sealed ON public.webhooks USING btree (bucket, created_at) WHERE ((length(secret_sealed) > 0) OR (length(headers_sealed) > 0));

ALTER INDEX public.delivery_attempts_pkey ATTACH PARTITION public.delivery_attempts_default_pkey;

ALTER INDEX public.events_stream ATTACH PARTITION public.events_default_bucket_xid_seq_idx;

ALTER INDEX public.events_pkey ATTACH PARTITION public.events_default_pkey;

ALTER INDEX public.executions_parent ATTACH PARTITION public.executions_default_bucket_parent_id_idx;

ALTER INDEX public.executions_replay_source ATTACH PARTITION public.executions_default_bucket_replay_source_run_id_idx;

ALTER INDEX public.executions_run ATTACH PARTITION public.executions_default_bucket_run_id_idx;

ALTER INDEX public.executions_source ATTACH PARTITION public.executions_default_bucket_source_execution_id_idx;

ALTER INDEX public.executions_pkey ATTACH PARTITION public.executions_default_pkey;

ALTER INDEX public.logs_pkey ATTACH PARTITION public.logs_default_pkey;

ALTER INDEX public.outcomes_status ATTACH PARTITION public.outcomes_default_bucket_namespace_status_id_idx;

ALTER INDEX public.outcomes_pkey ATTACH PARTITION public.outcomes_default_pkey;

CREATE TRIGGER audit_heads_go_forward BEFORE DELETE OR UPDATE ON public.audit_heads FOR EACH ROW EXECUTE FUNCTION public.audit_heads_go_forward();

CREATE TRIGGER audit_heads_stay BEFORE TRUNCATE ON public.audit_heads FOR EACH STATEMENT EXECUTE FUNCTION public.audit_heads_go_forward();

CREATE TRIGGER audit_rows_stay BEFORE DELETE OR UPDATE ON public.audit FOR EACH ROW EXECUTE FUNCTION public.audit_is_append_only();

CREATE TRIGGER audit_stays BEFORE TRUNCATE ON public.audit FOR EACH STATEMENT EXECUTE FUNCTION public.audit_is_append_only();
