-- Tidings 0002: events that are published later, a way back for what is parked, and what troubles the relay.

-- Events that are not due yet. The relay moves them into the log when they are; until then they can be
-- cancelled by id.
create table tidings_delayed (
    -- the order among events that are due at the same moment
    place   integer primary key autoincrement,
    event   blob    not null unique check (typeof(event) = 'blob' and length(event) = 16),
    due     integer not null check (typeof(due) = 'integer'),
    at      integer not null default (cast(unixepoch('subsec') * 1000000 as integer))
                    check (typeof(at) = 'integer'),
    name    text    not null check (typeof(name) = 'text'),
    version integer not null default 1 check (typeof(version) = 'integer'),
    key     text    check (key is null or typeof(key) = 'text'),
    headers text    not null default '{}' check (typeof(headers) = 'text'),
    payload blob    not null check (typeof(payload) = 'blob')
);

-- the next one, and what is due, in order
create index tidings_delayed_due on tidings_delayed (due, place);

-- null: somebody has to decide. Else the subject or the stream that does not take it now: it goes back by
-- itself when that does
alter table tidings_parked add column waits_for text;
-- when somebody asked for it to be published; the relay does so, in the order of ids
alter table tidings_parked add column asked_at integer;

-- what follows under a key
create index tidings_parked_key on tidings_parked (key, id);
-- what goes back by itself, by reason
create index tidings_parked_waits_for on tidings_parked (waits_for, id) where waits_for is not null;
-- what somebody has asked for
create index tidings_parked_asked_at on tidings_parked (id) where asked_at is not null;

-- what hinders the relay now: {place: {since, cause, cure}}
alter table tidings_relay add column trouble text not null default '{}';
