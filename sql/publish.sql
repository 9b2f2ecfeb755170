-- Publishing events from psql, or from any language: insert into the outbox in the transaction of the
-- business change. Nothing else is needed.
--   psql "$DATABASE_URL" -v ON_ERROR_STOP=1 -f sql/publish.sql
\set QUIET on

-- 1. With the function: topic outbox.event.order, key 42.
begin;
-- ... the business change ...
select outbox_publish('order', '42', 'OrderCreated', '{"order_id": 42, "total": "99.90"}') as id;
commit;

-- 2. The same by hand, with headers: one Kafka header per entry.
begin;
insert into outbox (aggregatetype, aggregateid, type, payload, headers)
values ('order', '42', 'OrderPaid', '{"order_id": 42}', '{"source": "psql", "attempt": 1}');
commit;

-- 3. A table that stays empty: the event is deleted in the transaction that wrote it, and is published
--    all the same. It cannot be backfilled should the slot be lost.
begin;
with event as (
    insert into outbox (aggregatetype, aggregateid, type, payload)
    values ('order', '42', 'OrderShipped', '{"order_id": 42}') returning id
)
select id from event \gset event_
delete from outbox where id = :'event_id';
commit;

-- 4. Many at once: every row of a statement is a record, per key in the order of the rows.
begin;
insert into outbox (aggregatetype, aggregateid, type, payload)
select 'order', n::text, 'OrderCreated', jsonb_build_object('order_id', n) from generate_series(1, 10) n;
commit;

-- 5. Rolled back is never published.
begin;
select outbox_publish('order', '43', 'OrderCreated', '{}') as never_published;
rollback;
