-- Tidings 0003: the inbox, which remembers what was handled.

-- How long a slot of the inbox is written to: a period. One row.
create table tidings_inbox_ring (
    one          integer primary key default 1 check (one = 1),
    slot_seconds integer not null default 86400 check (slot_seconds > 0),
    -- the first period in reach, whatever the ring holds: periods are counted from 1970
    first        integer not null default 0
);

insert into tidings_inbox_ring (one) values (1);

-- A ring of sixteen slots: what was handled, by the event's own time, so that all deliveries of an event
-- meet in one slot. Fifteen are in reach; the one that is not is emptied by a delete of everything, which
-- gives up its pages without a look at the rows.
create table tidings_inbox_0 (event blob not null, scope text not null, primary key (event, scope)) without rowid;
-- slot 1
create table tidings_inbox_1 (event blob not null, scope text not null, primary key (event, scope)) without rowid;
-- slot 2
create table tidings_inbox_2 (event blob not null, scope text not null, primary key (event, scope)) without rowid;
-- slot 3
create table tidings_inbox_3 (event blob not null, scope text not null, primary key (event, scope)) without rowid;
-- slot 4
create table tidings_inbox_4 (event blob not null, scope text not null, primary key (event, scope)) without rowid;
-- slot 5
create table tidings_inbox_5 (event blob not null, scope text not null, primary key (event, scope)) without rowid;
-- slot 6
create table tidings_inbox_6 (event blob not null, scope text not null, primary key (event, scope)) without rowid;
-- slot 7
create table tidings_inbox_7 (event blob not null, scope text not null, primary key (event, scope)) without rowid;
-- slot 8
create table tidings_inbox_8 (event blob not null, scope text not null, primary key (event, scope)) without rowid;
-- slot 9
create table tidings_inbox_9 (event blob not null, scope text not null, primary key (event, scope)) without rowid;
-- slot 10
create table tidings_inbox_10 (event blob not null, scope text not null, primary key (event, scope)) without rowid;
-- slot 11
create table tidings_inbox_11 (event blob not null, scope text not null, primary key (event, scope)) without rowid;
-- slot 12
create table tidings_inbox_12 (event blob not null, scope text not null, primary key (event, scope)) without rowid;
-- slot 13
create table tidings_inbox_13 (event blob not null, scope text not null, primary key (event, scope)) without rowid;
-- slot 14
create table tidings_inbox_14 (event blob not null, scope text not null, primary key (event, scope)) without rowid;
-- slot 15
create table tidings_inbox_15 (event blob not null, scope text not null, primary key (event, scope)) without rowid;

-- For people: which slot remembers an event.
create view tidings_inbox as
select 0 as slot, event, scope from tidings_inbox_0
union all
select 1 as slot, event, scope from tidings_inbox_1
union all
select 2 as slot, event, scope from tidings_inbox_2
union all
select 3 as slot, event, scope from tidings_inbox_3
union all
select 4 as slot, event, scope from tidings_inbox_4
union all
select 5 as slot, event, scope from tidings_inbox_5
union all
select 6 as slot, event, scope from tidings_inbox_6
union all
select 7 as slot, event, scope from tidings_inbox_7
union all
select 8 as slot, event, scope from tidings_inbox_8
union all
select 9 as slot, event, scope from tidings_inbox_9
union all
select 10 as slot, event, scope from tidings_inbox_10
union all
select 11 as slot, event, scope from tidings_inbox_11
union all
select 12 as slot, event, scope from tidings_inbox_12
union all
select 13 as slot, event, scope from tidings_inbox_13
union all
select 14 as slot, event, scope from tidings_inbox_14
union all
select 15 as slot, event, scope from tidings_inbox_15;
