-- The roles of docker-compose.yml, for psql. The owner of the tables runs it after `tidings migrate` and after each later
-- migration; running it again changes nothing. The grants are those of the README (Roles).

\set ON_ERROR_STOP on
\getenv producer_password PRODUCER_PASSWORD
\getenv relay_password RELAY_PASSWORD
\getenv worker_password WORKER_PASSWORD

select format('create role %I', name)
from unnest(array['producer', 'relay', 'worker']) as name
where not exists (select from pg_roles where rolname = name)
\gexec
alter role producer login nosuperuser nocreatedb nocreaterole password :'producer_password';
alter role relay login nosuperuser nocreatedb nocreaterole password :'relay_password';
alter role worker login nosuperuser nocreatedb nocreaterole password :'worker_password';

-- a role that produces, by the library or by the SQL function
grant usage on schema tidings to producer;
grant insert (event, name, version, key, headers, payload) on tidings.outbox to producer;
grant insert (event, due, name, version, key, headers, payload) on tidings.delayed to producer;
grant usage on sequence tidings.outbox_id to producer;

-- a role that relays
grant usage on schema tidings to relay;
grant select, insert, update, delete, truncate on all tables in schema tidings to relay;
grant usage on sequence tidings.outbox_id to relay;

-- the workers: their handlers use neither the inbox nor the outbox, so they see only that the tables are those of this
-- version. With `.on_transactional` a worker needs what the relay has.
grant usage on schema tidings to worker;
grant select on tidings.migration to worker;
grant select, insert, update on user_directory to worker;
