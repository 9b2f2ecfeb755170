-- Changes of a table that exists already become events, without touching the application that makes them:
--   psql "$DATABASE_URL" -v ON_ERROR_STOP=1 -v table=customers -v key=id -v aggregatetype=customer -f sql/trigger.sql
-- Run it once for each table, after txstream migrate up, as the owner of table and outbox. As often as you like.
--
-- Every inserted, updated or deleted row is one event of the key's aggregate: type Inserted, Updated or Deleted,
-- payload {"before": row or null, "after": row or null}. It is written in the transaction of the change, so a
-- change that is rolled back publishes nothing, and an outbox that takes no row lets no change through.
--
--   * An UPDATE that changes no value is no event. One that changes the key is Deleted for the old key and
--     Inserted for the new one, because a key's events are in order only among themselves.
--   * A key that is NULL fails the change: an event without aggregate cannot be put in order.
--   * TRUNCATE is no event. COPY is, row by row. What logical replication brings in is none, unless you
--     ALTER TABLE ... ENABLE ALWAYS TRIGGER outbox_capture.
--   * Whole rows go out. For less, write a function of your own with the columns in jsonb_build_object.
\set QUIET on
\if :{?table}         \else \set table         customers \endif
\if :{?key}           \else \set key           id        \endif
\if :{?aggregatetype} \else \set aggregatetype customer  \endif

-- With the rights of its owner: who may change the table need not be able to write events by hand.
create or replace function outbox_capture() returns trigger language plpgsql
    security definer set search_path = pg_catalog, pg_temp as $function$
declare
    kind constant text := tg_argv[0];
    key  constant text := tg_argv[1];
    old_row jsonb := case when tg_op <> 'INSERT' then to_jsonb(old) end;
    new_row jsonb := case when tg_op <> 'DELETE' then to_jsonb(new) end;
begin
    if tg_op = 'UPDATE' and old_row -> key is distinct from new_row -> key then
        insert into public.outbox (aggregatetype, aggregateid, type, payload) values
            (kind, old_row ->> key, 'Deleted', jsonb_build_object('before', old_row, 'after', null)),
            (kind, new_row ->> key, 'Inserted', jsonb_build_object('before', null, 'after', new_row));
    elsif tg_op <> 'UPDATE' or old_row is distinct from new_row then
        insert into public.outbox (aggregatetype, aggregateid, type, payload) values (
            kind,
            coalesce(new_row, old_row) ->> key,
            case tg_op when 'INSERT' then 'Inserted' when 'UPDATE' then 'Updated' else 'Deleted' end,
            jsonb_build_object('before', old_row, 'after', new_row));
    end if;
    return null;
end
$function$;

create or replace trigger outbox_capture after insert or update or delete on :table
    for each row execute function outbox_capture(:'aggregatetype', :'key');

-- To end it: drop trigger outbox_capture on customers;
