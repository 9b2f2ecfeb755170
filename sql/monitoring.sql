-- What to look at when there is no txstream at hand:
--   psql "$DATABASE_URL" -v slot=txstream -v publication=txstream_outbox -f sql/monitoring.sql
-- The reader needs pg_monitor (or pg_read_all_stats) to see other sessions.
\set QUIET on
\if :{?slot}        \else \set slot        txstream        \endif
\if :{?publication} \else \set publication txstream_outbox \endif

\echo '-- How far is the slot behind, and what does it keep on disk?'
select slot_name, active, active_pid, wal_status, confirmed_flush_lsn, restart_lsn,
       pg_size_pretty(pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn)) as not_confirmed,
       pg_size_pretty(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)) as retained_wal,
       pg_size_pretty(safe_wal_size) as room_until_lost
  from pg_replication_slots where slot_name = :'slot';

\echo '-- Who holds it?'
select r.pid, r.application_name, r.client_addr, r.state, r.sync_state, r.backend_start,
       r.sent_lsn, r.flush_lsn, r.flush_lag
  from pg_stat_replication r join pg_replication_slots s on s.active_pid = r.pid where s.slot_name = :'slot';

\echo '-- Which transactions hold it back? The oldest one decides how much WAL is kept.'
select coalesce(a.pid::text, 'prepared ' || p.gid) as session, a.application_name, a.state,
       coalesce(a.datname, p.database) as database,
       date_trunc('second', now() - coalesce(a.xact_start, p.prepared)) as open_for
  from pg_locks l
  left join pg_stat_activity a on a.pid = l.pid
  left join pg_prepared_xacts p on p.transaction = l.transactionid
 where l.locktype = 'transactionid' and l.mode = 'ExclusiveLock' and l.granted
   and l.pid is distinct from pg_backend_pid()
 order by age(l.transactionid) desc limit 10;

\echo '-- Does the publication cover the outbox tables, via the root of partitioned ones?'
select p.pubname, p.pubinsert, p.pubupdate, p.pubdelete, p.pubtruncate, p.pubviaroot,
       string_agg(format('%I.%I', t.schemaname, t.tablename), ', ' order by 1) as tables
  from pg_publication p left join pg_publication_tables t on t.pubname = p.pubname
 where p.pubname = :'publication' group by p.oid, p.pubname, p.pubinsert, p.pubupdate, p.pubdelete, p.pubtruncate, p.pubviaroot;

\echo '-- Which settings can cost the slot?'
select name, setting, unit from pg_settings
 where name in ('wal_level', 'max_replication_slots', 'max_wal_senders', 'max_slot_wal_keep_size',
                'wal_sender_timeout', 'idle_replication_slot_timeout', 'synchronous_standby_names',
                'sync_replication_slots', 'synchronized_standby_slots', 'hot_standby_feedback')
 order by name;

select to_regclass('public.txstream_checkpoint') is not null as migrated \gset
\if :migrated
\echo '-- What did the relay note last?'
select slot, database, confirmed_lsn, clean, dropped, backfill_pending, rejected is not null as rejected,
       date_trunc('second', now() - updated_at) as noted_before
  from public.txstream_checkpoint order by slot;

\echo '-- Which records are parked?'
select slot, topic, reason, count(*) as records, count(distinct key) as keys, min(parked_at) as since
  from public.txstream_dead_letter group by slot, topic, reason order by since;
\endif
