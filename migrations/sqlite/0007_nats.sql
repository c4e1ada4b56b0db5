-- Tidings 0007: which NATS the outbox is relayed into.

-- null: not known yet. Else {cluster, domain, server, server_id, accepted}: what tells it from another one
alter table tidings_relay add column nats text;
