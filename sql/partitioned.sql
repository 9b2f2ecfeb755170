-- An outbox in partitions of a day. Old days are dropped whole, which costs nothing, instead of deleted row by row.
--   psql "$DATABASE_URL" -v ON_ERROR_STOP=1 -f sql/partitioned.sql     before txstream migrate up, as the owner
--   txstream migrate up                                                publishes it under the name of its root
-- Then every hour or so, for example by pg_cron or a timer of your system:
--   psql "$DATABASE_URL" -c "select outbox_add_partitions('outbox')"
--   psql "$DATABASE_URL" -c "call outbox_drop_partitions('outbox', '7 days')"
-- Instead of the last one, txstream outbox prune --older-than 7d does the same and says more.
--
-- There is no DEFAULT partition, on purpose: rows in it could never be dropped whole, and each new partition would
-- have to read it under a lock. So a row whose day has no partition is refused, and the business change with it:
-- keep days ahead, and watch them (the query at the end).
\set QUIET on

create table if not exists outbox (
    id                 uuid         not null default gen_random_uuid(),
    aggregatetype      varchar(255) not null,
    aggregateid        varchar(255) not null,
    type               varchar(255) not null,
    payload            jsonb,
    headers            jsonb,
    tracingspancontext varchar(256),
    "timestamp"        timestamp    not null default (now() at time zone 'utc'),
    -- Unique within a day only: a key of a partitioned table must contain what it is partitioned by.
    primary key (id, "timestamp")
) partition by range ("timestamp");

-- Makes the partitions of today and of so many days after it, in UTC, and gives the names of the new ones.
-- Attaching, unlike CREATE TABLE ... PARTITION OF, lets writers go on.
create or replace function outbox_add_partitions(outbox regclass, days_ahead integer default 14)
    returns setof text language plpgsql as $function$
declare
    today constant date := (now() at time zone 'utc')::date;
    day   date;
    name  text;
begin
    for day in select today + n from generate_series(0, days_ahead) n loop
        select format('%I.%I', s.nspname, t.relname || to_char(day, '_YYYYMMDD')) into name
          from pg_class t join pg_namespace s on s.oid = t.relnamespace where t.oid = outbox;
        if to_regclass(name) is null then
            execute format('create table %s (like %s including all)', name, outbox);
            execute format('alter table %s attach partition %s for values from (%L) to (%L)', outbox, name, day, day + 1);
            return next name;
        end if;
    end loop;
end
$function$;

-- Drops every partition that ended so long ago, if the slot has confirmed all its rows, so if Kafka has them.
-- Whatever is not known to be confirmed stays; the next call looks again.
--
-- Once nobody has the partition open for writing, the end of WAL lies behind the commit of every row in it. When
-- the slot has confirmed that position, it has confirmed them all. The lock stays until the partition is gone, so
-- that no row comes in between.
--
-- Never ALTER TABLE ... DETACH PARTITION ... CONCURRENTLY: a transaction that began before may still write into the
-- partition, and its row is then no longer one of the outbox: it would never be published.
create or replace procedure outbox_drop_partitions(outbox regclass, older_than interval, slot name default 'txstream')
    language plpgsql as $procedure$
declare
    partition text;
    written   pg_lsn;
    give_up   timestamptz;
begin
    -- A slot that nobody streams from stands where it was put, which proves nothing.
    if not exists (select from pg_replication_slots where slot_name = slot and database = current_database() and active) then
        raise 'no relay streams from slot %: nothing was dropped', slot;
    end if;
    if exists (select from public.txstream_checkpoint c where c.slot = outbox_drop_partitions.slot and backfill_pending) then
        raise 'a backfill of slot % is not finished: nothing was dropped', slot;
    end if;
    for partition in
        select c.oid::regclass
          from pg_inherits i join pg_class c on c.oid = i.inhrelid
         where i.inhparent = outbox
           -- NULL, and so not old, for MAXVALUE and for a DEFAULT partition.
           and substring(pg_get_expr(c.relpartbound, c.oid) from $re$TO \('(.*)'\)$re$)::timestamp
               <= (now() at time zone 'utc') - older_than
         order by 1
    loop
        begin
            -- So long writers may have to wait for us, not longer.
            set local lock_timeout = '100ms';
            execute format('lock table %s in share mode', partition);
            written := pg_current_wal_insert_lsn();
            give_up := clock_timestamp() + interval '5 seconds';
            while not exists (
                select from pg_replication_slots where slot_name = slot and active and confirmed_flush_lsn >= written
            ) loop
                if clock_timestamp() > give_up then
                    raise lock_not_available using message = format('slot %s has not confirmed %s yet', slot, written);
                end if;
                perform pg_sleep(0.02);
            end loop;
            execute format('drop table %s', partition);
            raise notice 'dropped %', partition;
        exception
            when lock_not_available or deadlock_detected then
                raise notice 'kept %: %', partition, sqlerrm;
        end;
        commit;
    end loop;
end
$procedure$;

select outbox_add_partitions('outbox') as new_partition;

-- How far ahead are we? Less than a few days is an alarm.
select max(substring(pg_get_expr(c.relpartbound, c.oid) from $re$TO \('(.*)'\)$re$)::timestamp)
       - (now() at time zone 'utc') as time_ahead
  from pg_inherits i join pg_class c on c.oid = i.inhrelid where i.inhparent = 'outbox'::regclass;
