-- Tidings 0006: bounds of what a row may hold.

-- A row gets its place from the outbox. One that is put where the relay has been would never be read, and one far above
-- the others would use up the places of those that follow: SQLite counts on from it, and an id that is given by hand
-- is never needed. The cursor is asked each time: `sqlite_sequence` can be written by anybody. What else cannot be an
-- event is parked by the relay: a table gets no further checks here, and a trigger costs every insert.
create trigger tidings_outbox_place after insert on tidings_outbox
when new.id <= (select cursor from tidings_relay)
     or new.id > 1000000000 + (select max(cursor, coalesce(
         (select seq from sqlite_sequence where name = 'tidings_outbox'), 0)) from tidings_relay)
     or new.id >= 4611686018427387904
begin
    select raise(abort, 'the id of a row is given by the outbox: leave it out');
end;

-- The same for the order of delayed events: behind one at the very end no other would be taken.
create trigger tidings_delayed_place after insert on tidings_delayed
when new.place > 1000000000 + coalesce((select seq from sqlite_sequence where name = 'tidings_delayed'), 0)
begin
    select raise(abort, 'the place of a delayed event is given by the outbox: leave it out');
end;
