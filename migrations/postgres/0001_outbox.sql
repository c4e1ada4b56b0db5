-- Tidings 0001: the outbox, its relay, its ledger, and what was parked.
-- The schema name `tidings.` is replaced when another one is configured.

-- CACHE 1: an id is drawn when the row is written, so a transaction that waited for another one's
-- lock gets the later id.
create sequence tidings.outbox_id as bigint cache 1;

-- The log: insert-only, never updated, emptied a slot at a time by truncate, so that nothing is left
-- for vacuum, whatever holds the horizon back.
create table tidings.outbox (
    -- before `id` on purpose: whoever holds an id already has its xid, so no transaction can hold a low
    -- id and still be invisible to everybody
    xid     xid8        not null default pg_current_xact_id(),
    id      bigint      not null default nextval('tidings.outbox_id'),
    at      timestamptz not null default clock_timestamp(),
    -- made by the client (UUIDv7), ce-id and Nats-Msg-Id on the wire; not indexed
    event   uuid        not null,
    name    text        not null,
    version integer     not null default 1,
    key     text,
    -- a JSON object of texts: correlation, trace, the user's own
    headers text        not null default '{}',
    -- bytes, not jsonb, which costs twice and changes them
    payload bytea       not null,
    -- eight slots of three hours, by the wall clock: now() would put a long transaction's rows into a
    -- slot that is about to be emptied
    slot    smallint    not null default ((date_part('epoch', clock_timestamp())::bigint / 10800) % 8)::smallint
) partition by list (slot);

alter sequence tidings.outbox_id owned by tidings.outbox.id;

do $$
begin
    for slot in 0..7 loop
        execute format(
            'create table tidings.outbox_%1$s partition of tidings.outbox for values in (%1$s)
             with (fillfactor = 100, toast_tuple_target = 8160, autovacuum_vacuum_insert_threshold = -1)',
            slot);
        -- no compression: it costs more than it saves, and NATS does not want it
        execute format('alter table tidings.outbox_%s alter column payload set storage external', slot);
    end loop;
end $$;

-- the rows of transactions that a snapshot did not see
create index on tidings.outbox (xid, id);
-- everything newer, in order
create index on tidings.outbox (id);

-- One relay works at a time: who, until when, and how far it is. One row.
create table tidings.relay (
    one             boolean     primary key default true check (one),
    owner           text,
    -- rises with every claim; a checkpoint of an old epoch changes nothing
    epoch           bigint      not null default 0,
    lease_until     timestamptz not null default '-infinity',
    -- every row that this snapshot sees is confirmed by the stream, or parked
    cursor          pg_snapshot not null,
    -- no row that the snapshot sees has a higher id: above it, new rows are found in the order of ids
    floor           bigint      not null default 0,
    -- while a backlog larger than a page drains: the snapshot it is read under, and the last id
    page_snapshot   pg_snapshot,
    page_id         bigint,
    -- per stream: its incarnation and the last sequence that is in the ledger
    streams         jsonb       not null default '{}',
    checkpointed_at timestamptz,
    -- tells a restored database, whose transaction ids mean nothing to the cursor
    system          text        not null
) with (fillfactor = 50);

insert into tidings.relay (cursor, system)
select pg_current_snapshot(), system_identifier::text from pg_control_system();

-- What was confirmed where: one row a batch, in a ring of its own (sixteen slots of a day).
create table tidings.ledger (
    at             timestamptz not null default clock_timestamp(),
    epoch          bigint      not null,
    first_id       bigint      not null,
    last_id        bigint      not null,
    events         integer     not null,
    stream         text        not null,
    -- when the stream was created, in the server's words
    incarnation    text        not null,
    first_sequence bigint      not null,
    last_sequence  bigint      not null,
    slot           smallint    not null default ((date_part('epoch', clock_timestamp())::bigint / 86400) % 16)::smallint
) partition by list (slot);

do $$
begin
    for slot in 0..15 loop
        execute format(
            'create table tidings.ledger_%1$s partition of tidings.ledger for values in (%1$s)
             with (autovacuum_vacuum_insert_threshold = -1)',
            slot);
    end loop;
end $$;

-- "where is row n", and the last batch
create index on tidings.ledger (last_id);

-- What the server will never take, and what follows it under the same key.
create table tidings.parked (
    id        bigint      primary key,
    at        timestamptz not null,
    event     uuid        not null,
    name      text        not null,
    version   integer     not null,
    key       text,
    headers   text        not null,
    payload   bytea       not null,
    error     text        not null,
    parked_at timestamptz not null default clock_timestamp()
);

-- Enqueues an event from any language, in the caller's transaction, and returns its id. Call it after
-- the statement that locks what the event is about.
create function tidings.enqueue(
    name    text,
    version integer,
    key     text,
    payload json,
    headers jsonb default '{}'
) returns uuid
language plpgsql as $$
declare
    -- UUIDv7: 48 bits of milliseconds, version and variant, the rest random
    event uuid := encode(
        set_bit(set_bit(overlay(
            uuid_send(gen_random_uuid())
            placing substring(int8send((extract(epoch from clock_timestamp()) * 1000)::bigint) from 3)
            from 1 for 6), 52, 1), 53, 1), 'hex')::uuid;
begin
    if name is null or name !~ '^[a-z][a-z0-9_-]*(\.[a-z][a-z0-9_-]*)+$' or length(name) > 200
       or name ~ '^(tidings|dead-letter)\.' then
        raise exception 'tidings: % is not an event name', coalesce(quote_literal(name), 'null')
            using errcode = 'invalid_parameter_value',
                  hint = 'Use two or more lower-case words joined by dots, such as user.created.';
    end if;
    if version is null or version < 1 then
        raise exception 'tidings: % is not a version of %', coalesce(version::text, 'null'), name
            using errcode = 'invalid_parameter_value', hint = 'Versions count from 1.';
    end if;
    if key is not null and (key = '' or octet_length(key) > 256 or key ~ '[[:cntrl:]]' or key <> btrim(key)) then
        raise exception 'tidings: the key % of % is refused', quote_literal(key), name
            using errcode = 'invalid_parameter_value',
                  hint = 'Use 1 to 256 bytes without control characters or white space at an end.';
    end if;
    if payload is null then
        raise exception 'tidings: % has no payload', name
            using errcode = 'invalid_parameter_value', hint = 'Give a JSON document.';
    end if;
    if jsonb_typeof(coalesce(headers, '{}')) <> 'object'
       or exists (select from jsonb_each(coalesce(headers, '{}')) as header where jsonb_typeof(header.value) <> 'string') then
        raise exception 'tidings: the headers of % are not an object of texts', name
            using errcode = 'invalid_parameter_value', hint = 'Give an object such as {"tenant": "acme"}.';
    end if;
    insert into tidings.outbox (event, name, version, key, headers, payload)
    values (event, enqueue.name, enqueue.version, enqueue.key,
            coalesce(enqueue.headers, '{}')::text, convert_to(enqueue.payload::text, 'UTF8'));
    return event;
end $$;
