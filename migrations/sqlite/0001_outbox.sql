-- Tidings 0001: the outbox, its relay, its ledger, delayed and parked events, and the inbox.
-- The prefix `tidings_` is replaced when another one is configured. Times are microseconds since 1970.

-- The log. SQLite has one writer at a time, so the order of ids is the order of commits. AUTOINCREMENT: without
-- it the ids of deleted rows would be used again.
create table tidings_outbox (
    -- SQLite takes any type in any column: what the relay cannot read is refused here
    id         integer primary key autoincrement,
    created_at integer not null default (cast(unixepoch('subsec') * 1000000 as integer))
                       check (typeof(created_at) = 'integer'),
    event      blob    not null check (typeof(event) = 'blob' and length(event) = 16),
    name       text    not null check (typeof(name) = 'text'),
    version    integer not null default 1 check (typeof(version) = 'integer'),
    key        text    check (key is null or typeof(key) = 'text'),
    headers    text    not null default '{}' check (typeof(headers) = 'text'),
    payload    blob    not null check (typeof(payload) = 'blob')
);

-- Events that are not due yet. The relay moves them into the log when they are; until then they can be
-- cancelled by id.
create table tidings_delayed (
    -- the order among events that are due at the same moment
    position   integer primary key autoincrement,
    event      blob    not null unique check (typeof(event) = 'blob' and length(event) = 16),
    due        integer not null check (typeof(due) = 'integer'),
    created_at integer not null default (cast(unixepoch('subsec') * 1000000 as integer))
                       check (typeof(created_at) = 'integer'),
    name       text    not null check (typeof(name) = 'text'),
    version    integer not null default 1 check (typeof(version) = 'integer'),
    key        text    check (key is null or typeof(key) = 'text'),
    headers    text    not null default '{}' check (typeof(headers) = 'text'),
    payload    blob    not null check (typeof(payload) = 'blob')
);

-- the next one, and what is due, in order
create index tidings_delayed_due on tidings_delayed (due, position);

-- The lease of the relay, its cursor, and its status. One row: one relay is active at a time.
create table tidings_relay (
    singleton             integer primary key default 1 check (singleton = 1),
    owner                 text,
    -- rises with every claim; a checkpoint of an old epoch changes nothing
    epoch                 integer not null default 0,
    lease_until           integer not null default 0,
    -- every row up to this id is confirmed by the stream, or parked
    cursor                integer not null default 0,
    -- per stream: its incarnation and the last sequence that is in the ledger
    streams               text    not null default '{}',
    checkpointed_at       integer,
    -- what hinders the relay now: {place: {since, cause, cure}}
    issues                text    not null default '{}',
    -- streams that are not what the relay had written to, until an operator decides: {stream: what is known}
    losses                text    not null default '{}',
    -- the process that republishes events, and the end of its lease: one at a time
    republisher           text,
    republish_lease_until integer not null default 0,
    -- the NATS that the outbox is relayed into. null: not known yet. Else {cluster, domain, server, server_id, accepted}
    nats                  text
);

insert into tidings_relay (singleton) values (1);

-- The outbox gives a row its id. One that is put where the relay has been would never be read, and one far above
-- the others would use up the places of those that follow: SQLite counts on from it, and an id that is given by hand
-- is never needed. The cursor is asked each time: `sqlite_sequence` can be written by anybody. What else cannot be an
-- event is parked by the relay: a table gets no further checks here, and a trigger costs every insert.
create trigger tidings_outbox_id after insert on tidings_outbox
when new.id <= (select cursor from tidings_relay)
     or new.id > 1000000000 + (select max(cursor, coalesce(
         (select seq from sqlite_sequence where name = 'tidings_outbox'), 0)) from tidings_relay)
     or new.id >= 4611686018427387904
begin
    select raise(abort, 'the id of a row is given by the outbox: leave it out');
end;

-- The same for the order of delayed events: behind one at the very end no other would be taken.
create trigger tidings_delayed_position after insert on tidings_delayed
when new.position > 1000000000 + coalesce((select seq from sqlite_sequence where name = 'tidings_delayed'), 0)
begin
    select raise(abort, 'the position of a delayed event is given by the outbox: leave it out');
end;

-- What was confirmed where: one row a batch.
create table tidings_ledger (
    created_at     integer not null default (cast(unixepoch('subsec') * 1000000 as integer)),
    epoch          integer not null,
    first_id       integer not null,
    last_id        integer not null,
    events         integer not null,
    stream         text    not null,
    -- when the stream was created, in the server's words
    incarnation    text    not null,
    first_sequence integer not null,
    last_sequence  integer not null,
    -- 'relayed'; 'republished': the stream had lost the events, or an operator republished them; 'copied': under
    -- another subject; 'discarded': an operator discarded the parked event, it is in no stream
    kind           text    not null default 'relayed'
);

-- "where is row n", and the last batch
create index tidings_ledger_last_id on tidings_ledger (last_id);
-- what is old enough to be deleted
create index tidings_ledger_created_at on tidings_ledger (created_at);

-- Events that the server refuses, and what follows them under the same key.
create table tidings_parked (
    id                  integer primary key,
    created_at          integer not null,
    event               blob    not null,
    name                text    not null,
    version             integer not null,
    key                 text,
    headers             text    not null,
    payload             blob    not null,
    error               text    not null,
    parked_at           integer not null default (cast(unixepoch('subsec') * 1000000 as integer)),
    -- null: an operator has to decide. Else the subject or the stream that does not take it now; the event is
    -- restored without an operator when that does
    blocked_on          text,
    -- when an operator asked for it to be published; the relay does so, in the order of ids
    unpark_requested_at integer
);

-- what follows under a key
create index tidings_parked_key on tidings_parked (key, id);
-- what is restored without an operator, by reason
create index tidings_parked_blocked_on on tidings_parked (blocked_on, id) where blocked_on is not null;
-- what an operator has asked for
create index tidings_parked_unpark_requested_at on tidings_parked (id) where unpark_requested_at is not null;

-- How long a slot of the inbox is written to: a period. One row.
create table tidings_inbox_ring (
    singleton    integer primary key default 1 check (singleton = 1),
    slot_seconds integer not null default 86400 check (slot_seconds > 0),
    -- the first period in reach, whatever the ring holds: periods are counted from 1970
    first_period integer not null default 0
);

insert into tidings_inbox_ring (singleton) values (1);

-- A ring of sixteen slots: the events that were handled, by the event's own time, so that all deliveries of an event
-- meet in one slot. Fifteen are in reach; the one that is not is emptied by a delete of everything, which
-- frees its pages without reading the rows.
create table tidings_inbox_0 (
    event       blob not null,
    subscriber  text not null,
    -- null: the event was handled. Else why it is, or is about to be, a dead letter, in JSON
    dead_letter text,
    primary key (event, subscriber)
) without rowid;
-- slot 1
create table tidings_inbox_1 (event blob not null, subscriber text not null, dead_letter text, primary key (event, subscriber)) without rowid;
-- slot 2
create table tidings_inbox_2 (event blob not null, subscriber text not null, dead_letter text, primary key (event, subscriber)) without rowid;
-- slot 3
create table tidings_inbox_3 (event blob not null, subscriber text not null, dead_letter text, primary key (event, subscriber)) without rowid;
-- slot 4
create table tidings_inbox_4 (event blob not null, subscriber text not null, dead_letter text, primary key (event, subscriber)) without rowid;
-- slot 5
create table tidings_inbox_5 (event blob not null, subscriber text not null, dead_letter text, primary key (event, subscriber)) without rowid;
-- slot 6
create table tidings_inbox_6 (event blob not null, subscriber text not null, dead_letter text, primary key (event, subscriber)) without rowid;
-- slot 7
create table tidings_inbox_7 (event blob not null, subscriber text not null, dead_letter text, primary key (event, subscriber)) without rowid;
-- slot 8
create table tidings_inbox_8 (event blob not null, subscriber text not null, dead_letter text, primary key (event, subscriber)) without rowid;
-- slot 9
create table tidings_inbox_9 (event blob not null, subscriber text not null, dead_letter text, primary key (event, subscriber)) without rowid;
-- slot 10
create table tidings_inbox_10 (event blob not null, subscriber text not null, dead_letter text, primary key (event, subscriber)) without rowid;
-- slot 11
create table tidings_inbox_11 (event blob not null, subscriber text not null, dead_letter text, primary key (event, subscriber)) without rowid;
-- slot 12
create table tidings_inbox_12 (event blob not null, subscriber text not null, dead_letter text, primary key (event, subscriber)) without rowid;
-- slot 13
create table tidings_inbox_13 (event blob not null, subscriber text not null, dead_letter text, primary key (event, subscriber)) without rowid;
-- slot 14
create table tidings_inbox_14 (event blob not null, subscriber text not null, dead_letter text, primary key (event, subscriber)) without rowid;
-- slot 15
create table tidings_inbox_15 (event blob not null, subscriber text not null, dead_letter text, primary key (event, subscriber)) without rowid;

-- For operators: which slot remembers an event.
create view tidings_inbox as
select 0 as slot, event, subscriber, dead_letter from tidings_inbox_0
union all
select 1 as slot, event, subscriber, dead_letter from tidings_inbox_1
union all
select 2 as slot, event, subscriber, dead_letter from tidings_inbox_2
union all
select 3 as slot, event, subscriber, dead_letter from tidings_inbox_3
union all
select 4 as slot, event, subscriber, dead_letter from tidings_inbox_4
union all
select 5 as slot, event, subscriber, dead_letter from tidings_inbox_5
union all
select 6 as slot, event, subscriber, dead_letter from tidings_inbox_6
union all
select 7 as slot, event, subscriber, dead_letter from tidings_inbox_7
union all
select 8 as slot, event, subscriber, dead_letter from tidings_inbox_8
union all
select 9 as slot, event, subscriber, dead_letter from tidings_inbox_9
union all
select 10 as slot, event, subscriber, dead_letter from tidings_inbox_10
union all
select 11 as slot, event, subscriber, dead_letter from tidings_inbox_11
union all
select 12 as slot, event, subscriber, dead_letter from tidings_inbox_12
union all
select 13 as slot, event, subscriber, dead_letter from tidings_inbox_13
union all
select 14 as slot, event, subscriber, dead_letter from tidings_inbox_14
union all
select 15 as slot, event, subscriber, dead_letter from tidings_inbox_15;
