-- Debezium's outbox table and three columns more. No status: the slot knows what was published.
create table {table} (
    id                 uuid         primary key default gen_random_uuid(),
    aggregatetype      varchar(255) not null,
    aggregateid        varchar(255) not null,
    type               varchar(255) not null,
    payload            jsonb,
    headers            jsonb,
    tracingspancontext varchar(256),
    "timestamp"        timestamp    not null default (now() at time zone 'utc')
);
