-- Tidings 0001: the outbox, its relay, its ledger, delayed and parked events, and the inbox.
-- The schema name `tidings.` is replaced when another one is configured.

-- CACHE 1: an id is drawn when the row is written, so a transaction that waited for another one's
-- lock gets the later id.
create sequence tidings.outbox_id as bigint cache 1;

-- The log: insert-only, never updated, emptied a slot at a time by truncate. Nothing is left for vacuum,
-- even when an old transaction holds the xmin horizon back.
create table tidings.outbox (
    -- before `id` on purpose: a transaction that holds an id already has its xid, so none can hold a low
    -- id and still be invisible to every snapshot
    xid        xid8        not null default pg_current_xact_id(),
    id         bigint      not null default nextval('tidings.outbox_id'),
    created_at timestamptz not null default clock_timestamp(),
    -- made by the client (UUIDv7), ce-id and Nats-Msg-Id on the wire; not indexed
    event      uuid        not null,
    name       text        not null,
    version    integer     not null default 1,
    key        text,
    -- a JSON object of strings: correlation, trace, the application's own
    headers    text        not null default '{}',
    -- bytes, not jsonb, which costs twice as much and changes them
    payload    bytea       not null,
    -- eight slots of three hours, by the wall clock: now() would put a long transaction's rows into a
    -- slot that is about to be emptied
    slot       smallint    not null default ((date_part('epoch', clock_timestamp())::bigint / 10800) % 8)::smallint
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

-- Refuses a row that cannot be an event, and a transaction that is not the row's own.
--
-- The relay's cursor is a snapshot: a row with the id of another transaction would be passed over, or met again when
-- that one comes. A row that is updated keeps the transaction that wrote it, and copies keep theirs until an adoption:
-- a dump has triggers behind the data, a subscription fires none, and a restore of data alone sets
-- PGOPTIONS='-c tidings_copy.rows=on'. The bounds are not checked there either: the relay parks such a row, and so does
-- an adoption.
--
-- A function without a WHEN condition and without a check constraint on purpose: the server compiles those again for
-- each statement, which costs an insert of one row 30 microseconds. It prepares each expression of a function again for
-- each transaction, so a row that is right meets one, which costs 5 microseconds.
create function tidings.check_event() returns trigger
language plpgsql as $$
begin
    if new.xid = pg_current_xact_id() and new.id > 0 and new.id < 4611686018427387904 and new.version > 0
       and new.created_at >= '0001-01-01 00:00:00+00' and new.created_at < '10000-01-01 00:00:00+00' then
        return new;
    end if;
    if new.id <= 0 or new.id >= 4611686018427387904 or new.version <= 0
       or new.created_at < '0001-01-01 00:00:00+00' or new.created_at >= '10000-01-01 00:00:00+00' then
        raise exception 'tidings: a row with id %, version % and time % cannot be an event',
                        new.id, new.version, new.created_at
            using errcode = 'check_violation', schema = tg_table_schema, table = 'outbox',
                  constraint = 'outbox_is_event',
                  hint = 'Leave id and created_at out; versions count from 1.';
    end if;
    if new.xid <> pg_current_xact_id() and tg_op = 'INSERT'
       and coalesce(current_setting('tidings_copy.rows', true), '') <> 'on' then
        raise exception 'tidings: the transaction of a row is given by the outbox: leave xid out'
            using errcode = 'integrity_constraint_violation';
    end if;
    return new;
end $$;

-- An updated row has to remain an event, too.
create trigger outbox_is_event before insert or update on tidings.outbox
for each row execute function tidings.check_event();

-- the rows of transactions that a snapshot did not see
create index on tidings.outbox (xid, id);
-- everything newer, in order
create index on tidings.outbox (id);

-- Events that are not due yet. The relay moves them into the log when they are; until then they can be
-- cancelled by id. Rows come and go, so this one is left to vacuum; it is small.
create table tidings.delayed (
    event      uuid        primary key,
    -- the order among events that are due at the same moment
    position   bigint      not null generated always as identity,
    -- a moment that the relay can wait for, within the range of its clock
    due        timestamptz not null check (isfinite(due) and due < '262143-01-01 00:00:00+00'),
    created_at timestamptz not null default clock_timestamp(),
    name       text        not null,
    version    integer     not null default 1,
    key        text,
    headers    text        not null default '{}',
    payload    bytea       not null,
    constraint delayed_is_event check (
        version > 0 and created_at >= '0001-01-01 00:00:00+00' and created_at < '10000-01-01 00:00:00+00')
);

-- the next one, and what is due, in order
create index on tidings.delayed (due, position);

-- The lease of the relay, its cursor, and its status. One row: one relay is active at a time.
create table tidings.relay (
    singleton              boolean     primary key default true check (singleton),
    owner                  text,
    -- rises with every claim; a checkpoint of an old epoch changes nothing
    epoch                  bigint      not null default 0,
    lease_until            timestamptz not null default '-infinity',
    -- every row that this snapshot sees is confirmed by the stream, or parked
    cursor                 pg_snapshot not null,
    -- no row that the snapshot sees has a higher id: above it, new rows are found in the order of ids
    id_floor               bigint      not null default 0,
    -- while a backlog larger than a page drains: the snapshot it is read under, and the last id
    page_snapshot          pg_snapshot,
    page_id                bigint,
    -- per stream: its incarnation and the last sequence that is in the ledger
    streams                jsonb       not null default '{}',
    checkpointed_at        timestamptz,
    -- tells a restored or copied database, whose transaction ids mean nothing to the cursor: the server's system
    -- identifier and the database's oid
    system                 text        not null,
    -- what hinders the relay now: {place: {since, cause, cure}}
    issues                 jsonb       not null default '{}',
    -- how long a slot of the log is written to: the retention decides
    slot_seconds           integer     not null default 10800,
    -- streams that are not what the relay had written to, until an operator decides: {stream: what is known}
    losses                 jsonb       not null default '{}',
    -- the process that republishes events, and the end of its lease: one at a time
    republisher            text,
    republish_lease_until  timestamptz not null default '-infinity',
    -- what the nats-server takes, headers and payload together; the relay writes it down
    max_payload            integer     not null default 1048576,
    -- the NATS that the outbox is relayed into. null: not known yet. Else {cluster, domain, server, server_id, accepted}
    nats                   jsonb
) with (fillfactor = 50);

insert into tidings.relay (cursor, system)
select pg_current_snapshot(), system_identifier::text || '/' ||
       (select oid from pg_database where datname = current_database())
from pg_control_system();

-- Every role may read this one number: the function `enqueue` runs with the rights of its caller.
grant select (max_payload) on tidings.relay to public;

-- What was confirmed where: one row a batch, in a ring of its own (sixteen slots of a day).
create table tidings.ledger (
    created_at     timestamptz not null default clock_timestamp(),
    epoch          bigint      not null,
    first_id       bigint      not null,
    last_id        bigint      not null,
    events         integer     not null,
    stream         text        not null,
    -- when the stream was created, in the server's words
    incarnation    text        not null,
    first_sequence bigint      not null,
    last_sequence  bigint      not null,
    -- 'relayed'; 'republished': the stream had lost the events, or an operator republished them; 'copied': under
    -- another subject; 'discarded': an operator discarded the parked event, it is in no stream
    kind           text        not null default 'relayed',
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

-- Events that the server refuses, and what follows them under the same key.
create table tidings.parked (
    id                  bigint      primary key,
    created_at          timestamptz not null,
    event               uuid        not null,
    name                text        not null,
    version             integer     not null,
    key                 text,
    headers             text        not null,
    payload             bytea       not null,
    error               text        not null,
    parked_at           timestamptz not null default clock_timestamp(),
    -- null: an operator has to decide. Else the subject or the stream that does not take it now; the event is
    -- restored without an operator when that does
    blocked_on          text,
    -- when an operator asked for it to be published; the relay does so, in the order of ids
    unpark_requested_at timestamptz
);

-- What follows under a key. An index takes no key of some thousand bytes; a row that has one is parked too, but
-- no event has such a key, so nothing follows it.
create index on tidings.parked (key, id) where octet_length(key) <= 256;
-- what is restored without an operator, by reason
create index on tidings.parked (blocked_on, id) where blocked_on is not null;
-- what an operator has asked for
create index on tidings.parked (id) where unpark_requested_at is not null;

-- How long a slot of the inbox is written to: a period. One row.
create table tidings.inbox_ring (
    singleton    boolean     primary key default true check (singleton),
    slot_seconds integer     not null default 86400 check (slot_seconds > 0),
    -- the first period in reach, whatever the ring holds: periods are counted from 1970
    first_period bigint      not null default 0
);

insert into tidings.inbox_ring default values;

-- A ring of sixteen slots: the events that were handled, by the event's own time, so that all deliveries of an
-- event meet in one slot. Fifteen are in reach, and the one that is not is emptied by truncate: nothing is left for
-- vacuum, whatever holds the xmin horizon back. They are tables and not partitions: a statement that names its slot
-- has locked it before it reads the clock, so no slot is emptied between the two.
do $$
begin
    for slot in 0..15 loop
        execute format(
            'create table tidings.inbox_%s (
                 event       uuid not null,
                 subscriber  text collate "C" not null,
                 -- null: the event was handled. Else why it is, or is about to be, a dead letter, in JSON
                 dead_letter text,
                 primary key (event, subscriber)
             ) with (autovacuum_vacuum_insert_threshold = -1)',
            slot);
    end loop;
    -- For operators: which slot remembers an event.
    execute 'create view tidings.inbox as ' || (
        select string_agg(
            format('select %1$s as slot, event, subscriber, dead_letter from tidings.inbox_%1$s', slot), ' union all ')
        from generate_series(0, 15) as slot);
end $$;

-- A text in UTF-8; null when it has none, which a database of another encoding can hold. The server would refuse the
-- whole answer for it.
create function tidings.utf8(text text) returns bytea
language plpgsql stable as $$
begin
    return convert_to(utf8.text, 'UTF8');
exception when character_not_in_repertoire or untranslatable_character then
    return null;
end $$;

-- Enqueues an event from any language, in the caller's transaction, and returns its id. Call it after
-- the statement that locks what the event is about. `event` is an id of the caller's, a new one by
-- default; with `due` it is published then, and can be cancelled before. It refuses what the library refuses.
create function tidings.enqueue(
    name    text,
    version integer,
    key     text,
    payload json,
    headers jsonb       default '{}',
    event   uuid        default null,
    due     timestamptz default null
) returns uuid
language plpgsql as $$
declare
    -- UUIDv7: 48 bits of milliseconds, version and variant, the rest random
    id uuid := coalesce(event, encode(
        set_bit(set_bit(overlay(
            uuid_send(gen_random_uuid())
            placing substring(int8send((extract(epoch from clock_timestamp()) * 1000)::bigint) from 3)
            from 1 for 6), 52, 1), 53, 1), 'hex')::uuid);
    -- most texts: visible ASCII, with spaces between
    plain   constant text := '^[!-~]([ -~]*[!-~])?$';
    -- of the others their UTF-8 in hexadecimal digits: control characters, or white space at an end. Classes such as
    -- [[:cntrl:]] mean another thing in each locale.
    unclean constant text := '^(?:..)*(?:[01].|7f|c2[89].)'
        || '|^(?:20|c2a0|e19a80|e2808[0-9a]|e280a[89f]|e2819f|e38080)'
        || '|(?:20|c2a0|e19a80|e2808[0-9a]|e280a[89f]|e2819f|e38080)$';
    stored  text := '{}';
    bytes   bytea;
    header  record;
    sizes   record;
    most    integer;
begin
    if name is null or name !~ '^[a-z][a-z0-9_-]*(\.[a-z][a-z0-9_-]*)+$' or length(name) > 200
       or name ~ '^(tidings|dead-letter)\.' then
        raise exception 'tidings: % is not an event name', coalesce(quote_literal(left(name, 300)), 'null')
            using errcode = 'invalid_parameter_value',
                  hint = 'Use two or more lower-case words joined by dots, such as user.created.';
    end if;
    if version is null or version < 1 then
        raise exception 'tidings: % is not a version of %', coalesce(version::text, 'null'), name
            using errcode = 'invalid_parameter_value', hint = 'Versions count from 1.';
    end if;
    if key is not null and not (key ~ plain and octet_length(key) <= 256) and (
           key = '' or octet_length(convert_to(key, 'UTF8')) > 256
           or encode(convert_to(key, 'UTF8'), 'hex') ~ unclean) then
        raise exception 'tidings: the key % of % is refused', quote_literal(left(key, 64)), name
            using errcode = 'invalid_parameter_value',
                  hint = 'Use 1 to 256 bytes without control characters or white space at an end.';
    end if;
    if payload is null then
        raise exception 'tidings: % has no payload', name
            using errcode = 'invalid_parameter_value', hint = 'Give a JSON document.';
    end if;
    if headers <> '{}' then
        if jsonb_typeof(headers) <> 'object' then
            raise exception 'tidings: the headers of % are not an object of texts', name
                using errcode = 'invalid_parameter_value', hint = 'Give an object such as {"tenant": "acme"}.';
        end if;
        for header in
            select given.label, lower(given.label collate "C") as known,
                   jsonb_typeof(given.value) as kind, given.value #>> '{}' as content
            from jsonb_each(enqueue.headers) as given (label, value)
        loop
            if header.kind <> 'string' then
                raise exception 'tidings: the headers of % are not an object of texts', name
                    using errcode = 'invalid_parameter_value', hint = 'Give an object such as {"tenant": "acme"}.';
            end if;
            if header.label !~ '^[!-9;-~]+$' then
                raise exception 'tidings: % of % is not a header name', quote_literal(left(header.label, 64)), name
                    using errcode = 'invalid_parameter_value',
                          hint = 'Use visible ASCII characters without a colon.';
            end if;
            if header.known in ('traceparent', 'tracestate', 'ce-correlationid', 'ce-causationid', 'ce-source') then
                if header.content = '' or octet_length(convert_to(header.content, 'UTF8')) > 512
                   or encode(convert_to(header.content, 'UTF8'), 'hex') ~ unclean then
                    raise exception 'tidings: the value of % of % is refused', header.label, name
                        using errcode = 'invalid_parameter_value',
                              hint = 'Use 1 to 512 bytes without control characters or white space at an end.';
                end if;
            elsif header.known ~ '^ce-[a-z0-9]{1,20}$'
                  and header.known not in ('ce-specversion', 'ce-id', 'ce-type', 'ce-time', 'ce-subject',
                                           'ce-partitionkey', 'ce-datacontenttype', 'ce-data') then
                -- an extension of CloudEvents
                if header.content = '' or header.content !~ plain
                   and encode(convert_to(header.content, 'UTF8'), 'hex') ~ unclean then
                    raise exception 'tidings: the value of % of % is refused', header.label, name
                        using errcode = 'invalid_parameter_value',
                              hint = 'Encode control characters, and white space at an end; leave out what is empty.';
                end if;
            elsif header.known ~ '^(ce-|nats-|tidings-)' or header.known = 'content-type' then
                raise exception 'tidings: the header % of % is reserved', quote_literal(left(header.label, 64)), name
                    using errcode = 'invalid_parameter_value',
                          hint = 'The system sets it. Yours are traceparent, tracestate, ce-correlationid, '
                              'ce-causationid, ce-source, extensions of CloudEvents (ce- and 1 to 20 of a-z and 0-9), '
                              'and names that begin neither with ce-, nats- nor tidings-.';
            elsif header.content <> '' and header.content !~ plain
                  and encode(convert_to(header.content, 'UTF8'), 'hex') ~ unclean then
                raise exception 'tidings: the value of the header % of % is refused',
                                quote_literal(left(header.label, 64)), name
                    using errcode = 'invalid_parameter_value',
                          hint = 'Encode control characters, and white space at an end.';
            end if;
        end loop;
        stored := headers::text;
    end if;
    if due is not null and not (isfinite(due) and due < '262143-01-01 00:00:00+00') then
        raise exception 'tidings: % is not a time for %', due, name
            using errcode = 'invalid_parameter_value', hint = 'Give a time, or null to publish at once.';
    end if;
    bytes := convert_to(enqueue.payload::text, 'UTF8');
    -- Only what may be too large is measured as it will be on the wire. A server that takes less than 64 KiB is for
    -- the relay: for its sake every event would read a row that the relay writes.
    if octet_length(bytes) + 6 * octet_length(stored) > 57344 then
        -- the lines that every message has, those of a batch, and the relay's default source
        select 506 + length(name) + length(version::text)
               + coalesce(2 * encoded.key + 33, 0)
               + coalesce(sum(octet_length(each.label) + each.length + 4), 0)
               + case when bool_or(each.known = 'ce-source') then 0 else 20 end
               + case when bool_or(each.known = 'ce-correlationid') then 0 else 56 end as headers
        into sizes
        from (select 3 * octet_length(convert_to(enqueue.key, 'UTF8'))
                     - 2 * length(regexp_replace(enqueue.key, '[^!#$&-~]', '', 'g')) as key) as encoded
        left join lateral (
            select given.label, lower(given.label collate "C") as known,
                   -- attributes of CloudEvents are percent-encoded
                   case when lower(given.label collate "C") like 'ce-%'
                        then 3 * octet_length(convert_to(given.content, 'UTF8'))
                             - 2 * length(regexp_replace(given.content, '[^!#$&-~]', '', 'g'))
                        else octet_length(convert_to(given.content, 'UTF8')) end as length
            from jsonb_each_text(stored::jsonb) as given (label, content)
        ) as each on true
        group by encoded.key;
        if sizes.headers > 65535 then
            raise exception 'tidings: % has % bytes of headers: the limit is 65535', name, sizes.headers
                using errcode = 'invalid_parameter_value', hint = 'Put it into the payload.';
        end if;
        select coalesce(max(relay.max_payload), 1048576) into most from tidings.relay as relay;
        if sizes.headers + octet_length(bytes) > most then
            raise exception 'tidings: % has % bytes of headers and payload: the limit is %',
                            name, sizes.headers + octet_length(bytes), most
                using errcode = 'invalid_parameter_value',
                      hint = 'Keep it elsewhere and publish where, or raise max_payload of the nats-server.';
        end if;
    end if;
    if due is null then
        insert into tidings.outbox (event, name, version, key, headers, payload)
        values (id, enqueue.name, enqueue.version, enqueue.key, stored, bytes);
    else
        insert into tidings.delayed (event, due, name, version, key, headers, payload)
        values (id, enqueue.due, enqueue.name, enqueue.version, enqueue.key, stored, bytes);
    end if;
    return id;
end $$;
