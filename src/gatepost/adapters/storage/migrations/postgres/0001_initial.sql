-- The first schema. Moments (`*_at`, `*_until`) are whole milliseconds since 1970, UTC; 253402300799999 is never.
-- Ids are text and time-ordered (`{prefix}_` + UUIDv7 in hex), so that new rows go to the end of every tree and
-- `ORDER BY id DESC` is newest first. No foreign keys: each write names its parents in its own transaction, and
-- checking them again would cost the hot path a look-up per row. What is sorted or searched by is compared byte by byte
-- (`COLLATE "C"`): the same order on every server, and the cheapest.

-- One row: a constant sealed with the installation's key, so that another key is refused at start and not at the
-- first webhook that needs its secret.
CREATE TABLE key_check (
    id BIGINT PRIMARY KEY CHECK (id = 1),
    sealed TEXT NOT NULL
);

-- ---- accounts -----------------------------------------------------------------------------------------------

CREATE TABLE groups (
    id TEXT COLLATE "C" PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    -- Raised by every write of any webhook of the group: an emit that matched older webhooks is refused by it.
    webhooks_version BIGINT NOT NULL DEFAULT 0,
    created_at BIGINT NOT NULL
);

CREATE TABLE api_keys (
    id TEXT COLLATE "C" PRIMARY KEY,
    group_id TEXT COLLATE "C" NOT NULL,
    role TEXT NOT NULL,
    secret_hash BYTEA NOT NULL,
    created_at BIGINT NOT NULL,
    last_used_at BIGINT,
    name TEXT,
    revoked_at BIGINT
);

CREATE INDEX api_keys_of_group ON api_keys (group_id, id) WHERE revoked_at IS NULL;

-- ---- people -------------------------------------------------------------------------------------------------

CREATE TABLE users (
    id TEXT COLLATE "C" PRIMARY KEY,
    email TEXT COLLATE "C" NOT NULL UNIQUE, -- in lower case
    name TEXT,
    password_hash TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    is_installation_owner BIGINT NOT NULL
);

CREATE INDEX installation_owners ON users (id) WHERE is_installation_owner = 1;

CREATE TABLE members (
    group_id TEXT COLLATE "C" NOT NULL,
    user_id TEXT COLLATE "C" NOT NULL,
    role TEXT NOT NULL, -- owner, admin, member
    joined_at BIGINT NOT NULL,
    PRIMARY KEY (group_id, user_id)
);

CREATE INDEX members_of_user ON members (user_id, group_id);

CREATE TABLE sessions (
    id TEXT COLLATE "C" PRIMARY KEY,
    user_id TEXT COLLATE "C" NOT NULL,
    secret_hash BYTEA NOT NULL,
    created_at BIGINT NOT NULL,
    last_used_at BIGINT NOT NULL
);

CREATE INDEX sessions_of_user ON sessions (user_id, id);
CREATE INDEX sessions_by_use ON sessions (last_used_at); -- which have run out

-- Requests made under an Idempotency-Key, and their first answers.
CREATE TABLE requests (
    id TEXT COLLATE "C" PRIMARY KEY, -- SHA-256 of who asked, for what, under which key
    body_hash BYTEA NOT NULL,
    seed TEXT NOT NULL, -- sealed
    at BIGINT NOT NULL,
    answer TEXT -- sealed JSON; NULL until there is one
);

CREATE INDEX requests_by_age ON requests (at);

-- ---- tasks --------------------------------------------------------------------------------------------------

CREATE TABLE tasks (
    group_id TEXT COLLATE "C" NOT NULL,
    id TEXT COLLATE "C" NOT NULL,
    title TEXT NOT NULL,
    description TEXT,
    status TEXT NOT NULL,
    assigned_to TEXT,
    difficulty BIGINT,
    due_at BIGINT,
    external_id TEXT,
    source TEXT,
    version BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    completed_at BIGINT,
    searched TEXT NOT NULL, -- what a search looks through, its case folded
    deleted_at BIGINT,
    PRIMARY KEY (group_id, id)
);

CREATE INDEX tasks_of_status ON tasks (group_id, status, id) WHERE deleted_at IS NULL;
CREATE INDEX tasks_of_person ON tasks (group_id, assigned_to, id) WHERE deleted_at IS NULL;

CREATE TABLE task_history (
    task_id TEXT COLLATE "C" NOT NULL,
    version BIGINT NOT NULL,
    group_id TEXT COLLATE "C" NOT NULL,
    at BIGINT NOT NULL,
    actor_id TEXT,
    event TEXT NOT NULL,
    changes TEXT NOT NULL, -- JSON
    reason TEXT,
    PRIMARY KEY (task_id, version)
);

-- ---- swaps --------------------------------------------------------------------------------------------------

CREATE TABLE swaps (
    group_id TEXT COLLATE "C" NOT NULL,
    id TEXT COLLATE "C" NOT NULL,
    task_id TEXT COLLATE "C" NOT NULL,
    assigned_to TEXT NOT NULL, -- when it was proposed; the version, too
    version BIGINT NOT NULL,
    with_task_id TEXT COLLATE "C" NOT NULL,
    with_assigned_to TEXT NOT NULL,
    with_version BIGINT NOT NULL,
    reason TEXT,
    status TEXT NOT NULL,
    proposed_by TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    decided_by TEXT,
    decided_at BIGINT,
    PRIMARY KEY (group_id, id)
);

CREATE INDEX swaps_pending ON swaps (group_id, id) WHERE status = 'pending'; -- what somebody has to decide

-- The pending swap that a task is in: one at most.
CREATE TABLE open_swaps (
    group_id TEXT COLLATE "C" NOT NULL,
    task_id TEXT COLLATE "C" NOT NULL,
    swap_id TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (group_id, task_id)
);

-- ---- events -------------------------------------------------------------------------------------------------

CREATE TABLE events (
    group_id TEXT COLLATE "C" NOT NULL,
    id TEXT COLLATE "C" NOT NULL,
    event TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    actor_id TEXT,
    origin TEXT NOT NULL,
    hop BIGINT NOT NULL,
    tasks TEXT NOT NULL, -- that it is about, with their versions after it: tsk_1:7 tsk_2:3
    webhooks_version BIGINT NOT NULL, -- that its webhooks were matched at
    body BYTEA NOT NULL, -- last, as SQLite reads past it to what follows
    PRIMARY KEY (group_id, id)
);

-- What people list, newest first, and retention lets go of, oldest first. Its condition holds for every event, and only
-- these two name it: without one, PostgreSQL would walk this index to look up an event by its id.
CREATE INDEX events_of_group ON events (group_id, created_at) WHERE created_at >= 0;

-- Which events are about a task: `events.tasks` from the task's side.
CREATE TABLE event_tasks (
    group_id TEXT COLLATE "C" NOT NULL,
    task_id TEXT COLLATE "C" NOT NULL,
    version BIGINT NOT NULL, -- of the task, after the event
    event_id TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (group_id, task_id, version, event_id)
);

-- ---- webhooks and their lanes -------------------------------------------------------------------------------

CREATE TABLE webhooks (
    id TEXT COLLATE "C" PRIMARY KEY,
    group_id TEXT COLLATE "C" NOT NULL,
    name TEXT NOT NULL,
    url TEXT NOT NULL,
    enabled BIGINT NOT NULL,
    events TEXT NOT NULL, -- names, with spaces between
    headers TEXT NOT NULL, -- sealed JSON
    schedule TEXT NOT NULL, -- JSON, seconds
    max_attempts BIGINT NOT NULL, -- length of `schedule` + 1, so that matching an event parses no JSON
    timeout_seconds BIGINT NOT NULL,
    max_concurrency BIGINT NOT NULL,
    rate_limit_per_second BIGINT,
    ignore_origins TEXT NOT NULL, -- names, with spaces between
    secrets TEXT NOT NULL, -- sealed JSON
    preserve_task_order BIGINT NOT NULL,
    disabled_reason TEXT,
    enabled_at BIGINT NOT NULL, -- the last time
    config_version BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    deleted_at BIGINT
);

CREATE INDEX webhooks_of_group ON webhooks (group_id, id) WHERE deleted_at IS NULL;
CREATE INDEX webhooks_deleted ON webhooks (id) WHERE deleted_at IS NOT NULL; -- what the sweep looks through

-- What each webhook asked for from a version of its group's webhooks on: only ever added to.
CREATE TABLE webhook_revisions (
    group_id TEXT COLLATE "C" NOT NULL,
    webhook_id TEXT COLLATE "C" NOT NULL,
    from_version BIGINT NOT NULL,
    enabled BIGINT NOT NULL,
    events TEXT NOT NULL,
    ignore_origins TEXT NOT NULL,
    deleted BIGINT NOT NULL,
    PRIMARY KEY (group_id, webhook_id, from_version)
);

-- One lane per webhook: the lease on its queue, and hints about when to look at it. `docs/delivery-protocol.md`.
CREATE TABLE lanes (
    webhook_id TEXT COLLATE "C" PRIMARY KEY,
    due_at BIGINT NOT NULL, -- a hint; never later than the truth in `deliveries` for longer than a sweep
    pokes BIGINT NOT NULL DEFAULT 0, -- raised by whoever lowers `due_at`, so that a release cannot lose it
    hold_until BIGINT NOT NULL DEFAULT 0, -- not leased before; pokes leave it alone
    owner TEXT NOT NULL DEFAULT '', -- '' when nobody has it
    token BIGINT NOT NULL DEFAULT 0, -- the fence: raised by each lease
    lease_until BIGINT NOT NULL DEFAULT 0,
    unclean BIGINT NOT NULL DEFAULT 0,
    "window" BIGINT NOT NULL DEFAULT 1, -- of requests at once; 1 until a first success
    enabled_at BIGINT NOT NULL, -- that of its webhook; what follows is what the lane remembers of its receiver since
    streak BIGINT NOT NULL DEFAULT 0, -- of failures
    failing_since BIGINT,
    suspended_at BIGINT,
    draining BIGINT NOT NULL DEFAULT 0
);

-- Free lanes and leased ones apart: to find what can be leased, nobody steps over thousands of leased lanes.
CREATE INDEX lanes_free ON lanes (due_at, hold_until) WHERE owner = '';
CREATE INDEX lanes_leased ON lanes (lease_until) WHERE owner <> '';

CREATE TABLE workers (
    id TEXT COLLATE "C" PRIMARY KEY,
    host TEXT NOT NULL,
    started_at BIGINT NOT NULL,
    seen_at BIGINT NOT NULL
);

-- ---- deliveries ---------------------------------------------------------------------------------------------

CREATE TABLE deliveries (
    id TEXT COLLATE "C" PRIMARY KEY,
    group_id TEXT COLLATE "C" NOT NULL,
    webhook_id TEXT COLLATE "C" NOT NULL,
    event_id TEXT COLLATE "C" NOT NULL,
    event TEXT NOT NULL,
    task_ids TEXT NOT NULL, -- with spaces between; outlives the event's bytes
    status TEXT NOT NULL,
    attempt_count BIGINT NOT NULL,
    max_attempts BIGINT NOT NULL,
    next_attempt_at BIGINT, -- NULL once finished
    last_status_code BIGINT,
    last_error_class TEXT,
    dead_reason TEXT,
    replay_of TEXT,
    -- '' for the first delivery of an event to a webhook, 'test' for that of a test; for a replay its own id, or its
    -- job's and its original's
    replay_key TEXT COLLATE "C" NOT NULL,
    created_at BIGINT NOT NULL,
    finished_at BIGINT,
    not_before BIGINT -- by the last `Retry-After`
);

-- At most one delivery of an event to a webhook, replays apart.
CREATE UNIQUE INDEX deliveries_of_event ON deliveries (event_id, webhook_id, replay_key);
-- What the engine reads. Unfinished rows only: it stays small, and reading flat, with a million finished rows. The last
-- column is there for the search for the oldest, which goes along all of a webhook's backlog and not into the table.
CREATE INDEX deliveries_unfinished ON deliveries (webhook_id, next_attempt_at, id, not_before) WHERE finished_at IS NULL;
-- What people list, newest first.
CREATE INDEX deliveries_of_webhook ON deliveries (webhook_id, id);
CREATE INDEX deliveries_of_group ON deliveries (group_id, id);
CREATE INDEX deliveries_dead ON deliveries (group_id, id) WHERE status = 'dead-letter';

CREATE TABLE attempts (
    delivery_id TEXT COLLATE "C" NOT NULL,
    number BIGINT NOT NULL,
    probe BIGINT NOT NULL,
    probe_key TEXT COLLATE "C" NOT NULL, -- its own id for a probe that failed, '' for all that move their delivery
    id TEXT COLLATE "C" NOT NULL,
    started_at BIGINT NOT NULL,
    duration_us BIGINT NOT NULL,
    outcome TEXT NOT NULL, -- accepted, refused, unreachable, blocked
    status_code BIGINT,
    headers BYTEA, -- `Name: value` lines
    body BYTEA,
    truncated BIGINT NOT NULL,
    error_class TEXT,
    detail TEXT NOT NULL
);

-- However often an outcome is written, it is there once. Probes that failed count for nothing: any number of them.
CREATE UNIQUE INDEX attempts_of_delivery ON attempts (delivery_id, number, probe_key);

-- Rows here are written once, changed a few times, and then only looked at: dead versions are swept up early, as the
-- engine's reads step over those at the head of each queue.
ALTER TABLE lanes SET (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.1);
ALTER TABLE deliveries SET (fillfactor = 90, autovacuum_vacuum_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.05);

-- ---- bulk replays -------------------------------------------------------------------------------------------

CREATE TABLE replay_jobs (
    id TEXT COLLATE "C" PRIMARY KEY,
    group_id TEXT COLLATE "C" NOT NULL,
    webhook_id TEXT COLLATE "C" NOT NULL,
    wanted_status TEXT,
    wanted_event TEXT,
    wanted_from BIGINT,
    wanted_to BIGINT,
    total BIGINT NOT NULL, -- of deliveries found when it was made
    created_at BIGINT NOT NULL,
    status TEXT NOT NULL, -- running, done, cancelled, failed
    done BIGINT NOT NULL, -- of deliveries it has come past
    finished_at BIGINT,
    after_id TEXT COLLATE "C" NOT NULL DEFAULT '', -- the last delivery it has looked at
    owner TEXT NOT NULL DEFAULT '', -- '' when nobody has had it yet
    token BIGINT NOT NULL DEFAULT 0, -- the fence: raised by each lease
    lease_until BIGINT NOT NULL DEFAULT 0
);

CREATE INDEX replay_jobs_of_webhook ON replay_jobs (webhook_id, id);
CREATE UNIQUE INDEX replay_jobs_running ON replay_jobs (webhook_id) WHERE status = 'running'; -- one of each at a time

-- ---- counted, and kept for a while --------------------------------------------------------------------------

-- What became of attempts, in buckets of five minutes, apart by the bin that their latency fell into.
CREATE TABLE stats (
    webhook_id TEXT COLLATE "C" NOT NULL,
    at BIGINT NOT NULL,
    bin BIGINT NOT NULL,
    delivered BIGINT NOT NULL,
    failed BIGINT NOT NULL,
    dead BIGINT NOT NULL,
    PRIMARY KEY (webhook_id, at, bin)
);

-- For letting go of old ones, and for nothing else: as with `events_of_group`, its condition always holds.
CREATE INDEX stats_by_age ON stats (at) WHERE bin >= 0;

-- What one engine at a time does for all.
CREATE TABLE housekeeping (
    job TEXT COLLATE "C" PRIMARY KEY,
    owner TEXT NOT NULL, -- '' when nobody is at it
    lease_until BIGINT NOT NULL,
    done_at BIGINT NOT NULL -- the last time
);
