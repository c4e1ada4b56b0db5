-- Tidings 0006: bounds of what a row may hold, and one list of rules for every way in.

-- What the nats-server takes, headers and payload together; the relay writes it down. Everybody may read this one
-- number: the function `enqueue` has the rights of whoever calls it.
alter table tidings.relay add column max_payload integer not null default 1048576;
grant select (max_payload) on tidings.relay to public;

-- What no event can have. Rows from before are not looked at, which would take as long as the log is; the relay parks
-- those that are no events.
alter table tidings.outbox add constraint outbox_is_event check (
    id > 0 and id < 4611686018427387904 and version > 0
    and at >= '0001-01-01 00:00:00+00' and at < '10000-01-01 00:00:00+00') not valid;

-- Called for a row with a transaction that is not its own.
create function tidings.refuse_xid() returns trigger
language plpgsql as $$
begin
    raise exception 'tidings: the transaction of a row is given by the outbox: leave xid out'
        using errcode = 'integrity_constraint_violation';
end $$;

-- The relay's cursor is a snapshot: a row with the id of another transaction would be passed over, or met again when
-- that one comes. Its condition is all that an ordinary row pays for. It is a trigger and no check, because a row that
-- is updated keeps the transaction that wrote it, and because copies keep theirs until a rebase: a dump has triggers
-- behind the data, a subscription fires none, and a restore of data alone says PGOPTIONS='-c tidings_copy.rows=on'.
create trigger outbox_gives_xid before insert on tidings.outbox
for each row when (new.xid <> pg_current_xact_id()
                   and coalesce(current_setting('tidings_copy.rows', true), '') <> 'on')
execute function tidings.refuse_xid();

-- Delayed events are few. One that the log would refuse, when it is due, goes to the parked ones now.
with none as (
    delete from tidings.delayed
    where version < 1 or at < '0001-01-01 00:00:00+00' or at >= '10000-01-01 00:00:00+00' returning *
)
insert into tidings.parked (id, at, event, name, version, key, headers, payload, error)
select nextval('tidings.outbox_id'), at, event, name, version, key, headers, payload,
       'the row is no event: its version or its time is out of bounds'
from none order by due, place;

alter table tidings.delayed add constraint delayed_is_event check (
    version > 0 and at >= '0001-01-01 00:00:00+00' and at < '10000-01-01 00:00:00+00');

drop index tidings.parked_key_id_idx;
-- An index takes no key of some thousand bytes, and a row that has one is to be parked, too: no event has such a key,
-- so nothing follows it.
create index on tidings.parked (key, id) where octet_length(key) <= 256;

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
create or replace function tidings.enqueue(
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
