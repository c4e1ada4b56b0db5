-- Tidings 0001: the outbox, its relay, its ledger, and what was parked.
-- The prefix `tidings_` is replaced when another one is configured. Times are microseconds since 1970.

-- SQLite has one writer at a time, so the order of ids is the order of commits. AUTOINCREMENT: without
-- it the ids of deleted rows would be used again.
create table tidings_outbox (
    -- SQLite takes any type in any column: what the relay cannot read is refused here
    id      integer primary key autoincrement,
    at      integer not null default (cast(unixepoch('subsec') * 1000000 as integer))
                    check (typeof(at) = 'integer'),
    event   blob    not null check (typeof(event) = 'blob' and length(event) = 16),
    name    text    not null check (typeof(name) = 'text'),
    version integer not null default 1 check (typeof(version) = 'integer'),
    key     text    check (key is null or typeof(key) = 'text'),
    headers text    not null default '{}' check (typeof(headers) = 'text'),
    payload blob    not null check (typeof(payload) = 'blob')
);

-- One relay works at a time: who, until when, and how far it is. One row.
create table tidings_relay (
    one             integer primary key default 1 check (one = 1),
    owner           text,
    epoch           integer not null default 0,
    lease_until     integer not null default 0,
    -- every row up to this id is confirmed by the stream, or parked
    cursor          integer not null default 0,
    streams         text    not null default '{}',
    checkpointed_at integer
);

insert into tidings_relay (one) values (1);

-- What was confirmed where: one row a batch.
create table tidings_ledger (
    at             integer not null default (cast(unixepoch('subsec') * 1000000 as integer)),
    epoch          integer not null,
    first_id       integer not null,
    last_id        integer not null,
    events         integer not null,
    stream         text    not null,
    incarnation    text    not null,
    first_sequence integer not null,
    last_sequence  integer not null
);

-- "where is row n", and the last batch
create index tidings_ledger_last_id on tidings_ledger (last_id);
-- what is old enough to be deleted
create index tidings_ledger_at on tidings_ledger (at);

-- What the server will never take, and what follows it under the same key.
create table tidings_parked (
    id        integer primary key,
    at        integer not null,
    event     blob    not null,
    name      text    not null,
    version   integer not null,
    key       text,
    headers   text    not null,
    payload   blob    not null,
    error     text    not null,
    parked_at integer not null default (cast(unixepoch('subsec') * 1000000 as integer))
);
