-- Tidings 0003: the inbox, which remembers what was handled.

-- How long a slot of the inbox is written to: a period. One row.
create table tidings.inbox_ring (
    one          boolean     primary key default true check (one),
    slot_seconds integer     not null default 86400 check (slot_seconds > 0),
    -- the first period in reach, whatever the ring holds: periods are counted from 1970
    first        bigint      not null default 0
);

insert into tidings.inbox_ring default values;

-- A ring of sixteen slots: what was handled, by the event's own time, so that all deliveries of an event
-- meet in one slot. Fifteen are in reach, and the one that is not is emptied by truncate: nothing is left for
-- vacuum, whatever holds the horizon back. They are tables and not partitions: a statement that names its slot
-- has locked it before it reads the clock, so no slot is emptied between the two.
do $$
begin
    for slot in 0..15 loop
        execute format(
            'create table tidings.inbox_%s (
                 event uuid not null,
                 -- the subscriber
                 scope text collate "C" not null,
                 primary key (event, scope)
             ) with (autovacuum_vacuum_insert_threshold = -1)',
            slot);
    end loop;
    -- For people: which slot remembers an event.
    execute 'create view tidings.inbox as ' || (
        select string_agg(format('select %1$s as slot, event, scope from tidings.inbox_%1$s', slot), ' union all ')
        from generate_series(0, 15) as slot);
end $$;
