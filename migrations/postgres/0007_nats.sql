-- Tidings 0007: which NATS the outbox is relayed into.

alter table tidings.relay
    -- null: not known yet. Else {cluster, domain, server, server_id, accepted}: what tells it from another one
    add column nats jsonb;
