-- A table that stays empty: every event is deleted in the transaction that wrote it, by the table itself, so that
-- no application has to. It is published all the same, because the relay reads the write-ahead log.
--   psql "$DATABASE_URL" -v ON_ERROR_STOP=1 -f sql/insert-and-delete.sql         another table: -v outbox=app.outbox
-- Run it as the owner of the table, as often as you like.
--
-- What that costs: there is nothing to look at later; a lost slot cannot be made good from the table; an id is
-- no longer refused as a duplicate once its first transaction has committed; each delete is a small WAL record more.
-- Without this file an application can do the same for a single event: see sql/publish.sql.
\set QUIET on
\if :{?outbox} \else \set outbox outbox \endif

-- Once for a statement, however many rows it wrote; with the rights of its owner, so that a writer needs no right
-- but INSERT. The column id is that of every preset.
create or replace function outbox_forget() returns trigger language plpgsql
    security definer set search_path = pg_catalog, pg_temp as $function$
begin
    execute format('delete from %I.%I event using written where event.id = written.id', tg_table_schema, tg_table_name);
    return null;
end
$function$;

create or replace trigger outbox_forget after insert on :outbox
    referencing new table as written for each statement execute function outbox_forget();

-- Dead rows remain until vacuum comes. Small and often keeps the table at a few pages; where others sweep up
-- behind them, the pages are given back.
alter table :outbox set (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

-- To end it: drop trigger outbox_forget on outbox; alter table outbox reset (autovacuum_vacuum_scale_factor,
-- autovacuum_vacuum_threshold);
