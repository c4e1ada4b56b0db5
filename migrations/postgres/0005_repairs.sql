-- Tidings 0005: streams that lost something, and events that are published again.

alter table tidings.relay
    -- streams that are not what the relay had written to, until somebody has seen to it: {stream: what is known}
    add column losses        jsonb       not null default '{}',
    -- who publishes events again: one at a time, and until when
    add column mender        text,
    add column mending_until timestamptz not null default '-infinity';

-- How the events of an entry came into the stream: 'relayed'; 'republished', when it had lost them or somebody
-- asked for it; 'copied', under another subject. 'discarded': it did not, since somebody gave it up.
alter table tidings.ledger add column way text not null default 'relayed';
