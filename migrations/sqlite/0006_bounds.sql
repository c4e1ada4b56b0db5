-- Tidings 0006: bounds of what a row may hold.

-- A row gets its place from the outbox. One that is put where the relay has been would never be read, and one at the
-- very end would leave no place to those that follow. What else cannot be an event is parked by the relay: a table
-- gets no further checks here, and a trigger costs every insert. An id that was used before is the only one that can
-- lie behind the relay, and the insert has the page with the highest of them at hand, but not that of the relay.
create trigger tidings_outbox_place after insert on tidings_outbox
when new.id <= coalesce((select seq from sqlite_sequence where name = 'tidings_outbox'), new.id)
         and new.id <= (select cursor from tidings_relay)
     or new.id >= 4611686018427387904
begin
    select raise(abort, 'the id of a row is given by the outbox: leave it out');
end;
