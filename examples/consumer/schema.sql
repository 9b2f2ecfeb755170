-- What the consumer keeps: its effect, and which events it has had. Both in one database, so that one transaction
-- covers them.
create table if not exists customer_totals (
    customer text           primary key,
    total    numeric(14, 2) not null,
    invoices bigint         not null
);
create table if not exists processed_events (
    -- The consumer group: two consumers with different effects each have every event once.
    consumer     text        not null,
    id           uuid        not null,
    processed_at timestamptz not null default now(),
    primary key (consumer, id)
);
-- Rows older than any duplicate can be may go: longer than the relay can be away (days), and the topic's retention,
-- for a group whose offsets are set back:
--   delete from processed_events where processed_at < now() - interval '30 days';
