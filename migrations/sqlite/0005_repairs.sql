-- Tidings 0005: streams that lost something, and events that are published again.

-- streams that are not what the relay had written to, until somebody has seen to it: {stream: what is known}
alter table tidings_relay add column losses text not null default '{}';
-- who publishes events again: one at a time, and until when
alter table tidings_relay add column mender text;
alter table tidings_relay add column mending_until integer not null default 0;

-- How the events of an entry came into the stream: 'relayed'; 'republished', when it had lost them or somebody
-- asked for it; 'copied', under another subject. 'discarded': it did not, since somebody gave it up.
alter table tidings_ledger add column way text not null default 'relayed';
