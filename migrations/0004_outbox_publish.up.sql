-- One event from any language that speaks SQL: select outbox_publish('order', '42', 'OrderCreated', '{}').
-- The id is made before the row, so that a writer needs no right but INSERT.
create function {function}(
    aggregatetype text, aggregateid text, type text, payload jsonb, headers jsonb default null
) returns uuid language sql volatile as $function$
    with event as materialized (select pg_catalog.gen_random_uuid() as id),
    written as (
        insert into {table} (id, aggregatetype, aggregateid, type, payload, headers)
        select id, $1, $2, $3, $4, $5 from event
    )
    select id from event
$function$;
