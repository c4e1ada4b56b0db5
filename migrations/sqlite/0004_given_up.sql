-- Tidings 0004: the inbox also remembers what was given up, so that its letter and its effect are not both there.

drop view tidings_inbox;

-- null: the event was handled. Else why it is, or is about to be, a dead letter, in JSON
alter table tidings_inbox_0 add column given_up text;
-- slot 1
alter table tidings_inbox_1 add column given_up text;
-- slot 2
alter table tidings_inbox_2 add column given_up text;
-- slot 3
alter table tidings_inbox_3 add column given_up text;
-- slot 4
alter table tidings_inbox_4 add column given_up text;
-- slot 5
alter table tidings_inbox_5 add column given_up text;
-- slot 6
alter table tidings_inbox_6 add column given_up text;
-- slot 7
alter table tidings_inbox_7 add column given_up text;
-- slot 8
alter table tidings_inbox_8 add column given_up text;
-- slot 9
alter table tidings_inbox_9 add column given_up text;
-- slot 10
alter table tidings_inbox_10 add column given_up text;
-- slot 11
alter table tidings_inbox_11 add column given_up text;
-- slot 12
alter table tidings_inbox_12 add column given_up text;
-- slot 13
alter table tidings_inbox_13 add column given_up text;
-- slot 14
alter table tidings_inbox_14 add column given_up text;
-- slot 15
alter table tidings_inbox_15 add column given_up text;

-- For people: which slot remembers an event.
create view tidings_inbox as
select 0 as slot, event, scope, given_up from tidings_inbox_0
union all
select 1 as slot, event, scope, given_up from tidings_inbox_1
union all
select 2 as slot, event, scope, given_up from tidings_inbox_2
union all
select 3 as slot, event, scope, given_up from tidings_inbox_3
union all
select 4 as slot, event, scope, given_up from tidings_inbox_4
union all
select 5 as slot, event, scope, given_up from tidings_inbox_5
union all
select 6 as slot, event, scope, given_up from tidings_inbox_6
union all
select 7 as slot, event, scope, given_up from tidings_inbox_7
union all
select 8 as slot, event, scope, given_up from tidings_inbox_8
union all
select 9 as slot, event, scope, given_up from tidings_inbox_9
union all
select 10 as slot, event, scope, given_up from tidings_inbox_10
union all
select 11 as slot, event, scope, given_up from tidings_inbox_11
union all
select 12 as slot, event, scope, given_up from tidings_inbox_12
union all
select 13 as slot, event, scope, given_up from tidings_inbox_13
union all
select 14 as slot, event, scope, given_up from tidings_inbox_14
union all
select 15 as slot, event, scope, given_up from tidings_inbox_15;
