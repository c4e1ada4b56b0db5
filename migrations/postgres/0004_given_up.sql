-- Tidings 0004: the inbox also remembers what was given up, so that its letter and its effect are not both there.

do $$
begin
    for slot in 0..15 loop
        -- null: the event was handled. Else why it is, or is about to be, a dead letter, in JSON
        execute format('alter table tidings.inbox_%s add column given_up text', slot);
    end loop;
    execute 'create or replace view tidings.inbox as ' || (
        select string_agg(
            format('select %1$s as slot, event, scope, given_up from tidings.inbox_%1$s', slot), ' union all ')
        from generate_series(0, 15) as slot);
end $$;
