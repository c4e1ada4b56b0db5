-- Tidings 0002: events that are published later, a way back for what is parked, and what troubles the relay.

-- Events that are not due yet. The relay moves them into the log when they are; until then they can be
-- cancelled by id. Rows come and go, so this one is left to vacuum; it is small.
create table tidings.delayed (
    event   uuid        primary key,
    -- the order among events that are due at the same moment
    place   bigint      not null generated always as identity,
    -- a moment that the relay can wait for, and its clock can tell
    due     timestamptz not null check (isfinite(due) and due < '262143-01-01 00:00:00+00'),
    at      timestamptz not null default clock_timestamp(),
    name    text        not null,
    version integer     not null default 1,
    key     text,
    headers text        not null default '{}',
    payload bytea       not null
);

-- the next one, and what is due, in order
create index on tidings.delayed (due, place);

-- before the parked ones: whoever reads both takes them in this order
alter table tidings.relay
    -- what hinders the relay now: {place: {since, cause, cure}}
    add column trouble      jsonb   not null default '{}',
    -- how long a slot of the log is written to: the retention decides
    add column slot_seconds integer not null default 10800;

alter table tidings.parked
    -- null: somebody has to decide. Else the subject or the stream that does not take it now: it goes
    -- back by itself when that does
    add column waits_for text,
    -- when somebody asked for it to be published; the relay does so, in the order of ids
    add column asked_at  timestamptz;

-- what follows under a key
create index on tidings.parked (key, id);
-- what goes back by itself, by reason
create index on tidings.parked (waits_for, id) where waits_for is not null;
-- what somebody has asked for
create index on tidings.parked (id) where asked_at is not null;

-- A copy of a database within its cluster is another outbox, too. In one that has come from elsewhere the row stays as
-- it is: by its age a rebase tells what was written since.
update tidings.relay set system = system || '/' ||
    (select oid from pg_database where datname = current_database())
where system = (select system_identifier::text from pg_control_system());

-- until the new one has its grants
alter function tidings.enqueue(text, integer, text, json, jsonb) rename to enqueue_before;

-- Enqueues an event from any language, in the caller's transaction, and returns its id. Call it after
-- the statement that locks what the event is about. `event` is an id of the caller's, a new one by
-- default; with `due` it is published then, and can be cancelled before.
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
    if due is not null and not (isfinite(due) and due < '262143-01-01 00:00:00+00') then
        raise exception 'tidings: % is not a time for %', due, name
            using errcode = 'invalid_parameter_value', hint = 'Give a time, or null to publish at once.';
    end if;
    if due is null then
        insert into tidings.outbox (event, name, version, key, headers, payload)
        values (id, enqueue.name, enqueue.version, enqueue.key,
                coalesce(enqueue.headers, '{}')::text, convert_to(enqueue.payload::text, 'UTF8'));
    else
        insert into tidings.delayed (event, due, name, version, key, headers, payload)
        values (id, enqueue.due, enqueue.name, enqueue.version, enqueue.key,
                coalesce(enqueue.headers, '{}')::text, convert_to(enqueue.payload::text, 'UTF8'));
    end if;
    return id;
end $$;

-- Who might call the old one may call this one, and nobody else.
do $$
declare
    before constant regprocedure := 'tidings.enqueue_before(text, integer, text, json, jsonb)';
    after  constant text := 'function tidings.enqueue(text, integer, text, json, jsonb, uuid, timestamptz)';
    may    record;
begin
    -- null: everybody may, which is what a new one begins with
    if (select proacl from pg_proc where oid = before) is null then
        return;
    end if;
    execute format('revoke all on %s from public', after);
    for may in
        select entry.grantee, entry.is_grantable
        from pg_proc, aclexplode(proacl) as entry
        where pg_proc.oid = before and entry.privilege_type = 'EXECUTE'
    loop
        execute format('grant execute on %s to %s%s', after,
            case may.grantee when 0 then 'public' else may.grantee::regrole::text end,
            case when may.is_grantable then ' with grant option' else '' end);
    end loop;
end $$;

drop function tidings.enqueue_before(text, integer, text, json, jsonb);
