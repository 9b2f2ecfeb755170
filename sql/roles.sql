-- Roles with the least rights that txstream needs: one owns, one relays, one writes, one prunes.
--
--   psql "$ADMIN_URL" -v ON_ERROR_STOP=1 -f sql/roles.sql                     before txstream migrate up
--   DATABASE_URL=... (as txstream_owner) txstream migrate up
--   psql "$ADMIN_URL" -v ON_ERROR_STOP=1 -f sql/roles.sql                     again: now the tables exist
--
-- Run it as a superuser, in the database of the outbox, as often as you like. It sets no password:
-- use \password, or certificates. Other names: -v owner=... -v relay=... -v writer=... -v pruner=...,
-- another outbox table: -v schema=app -v outbox=outbox.
\set QUIET on
\if :{?owner}  \else \set owner  txstream_owner  \endif
\if :{?relay}  \else \set relay  txstream_relay  \endif
\if :{?writer} \else \set writer txstream_writer \endif
\if :{?pruner} \else \set pruner txstream_pruner \endif
\if :{?schema} \else \set schema public          \endif
\if :{?outbox} \else \set outbox outbox          \endif

select format('create role %I login', role) from (values (:'owner'), (:'relay'), (:'writer'), (:'pruner')) r(role)
 where not exists (select from pg_roles where rolname = role) \gexec

select format('grant connect on database %I to %I', current_database(), role)
  from (values (:'owner'), (:'relay'), (:'writer'), (:'pruner')) r(role) \gexec
grant usage on schema :"schema" to :"owner", :"relay", :"writer", :"pruner";
grant usage on schema public to :"owner", :"relay", :"writer", :"pruner";

-- txstream migrate: tables, a function and the publication. To publish a table that exists already its
-- owner must run it, or this role must be a member of the owner.
select format('grant create on database %I to %I', current_database(), :'owner') \gexec
grant create on schema :"schema", public to :"owner";

-- txstream relay, slot, lag. On Amazon RDS there is no REPLICATION attribute to give:
-- grant rds_replication to txstream_relay instead.
select exists (select from pg_roles where rolname = 'rds_replication') as on_rds \gset
\if :on_rds
grant rds_replication to :"relay";
\else
alter role :"relay" replication;
\endif
-- Shows who holds the slot and which transaction holds it back; without it only their pids.
grant pg_read_all_stats to :"relay";

select to_regclass('public.txstream_checkpoint') is not null
   and to_regclass(format('%I.%I', :'schema', :'outbox')) is not null as migrated \gset
\if :migrated
-- The rows themselves come by the slot: reading the table is for backfill and verify.
grant select on :"schema".:"outbox" to :"relay";
grant select, insert, update, delete on public.txstream_checkpoint, public.txstream_dead_letter to :"relay";
-- Deleting is for applications that delete an event in the transaction that wrote it. Reading the id
-- is what RETURNING and the delete need.
grant insert, delete, select (id) on :"schema".:"outbox" to :"writer";
-- txstream outbox prune: reads what is confirmed, deletes rows. Only the owner may drop partitions: run it as
-- that one where there are any.
grant select, delete on :"schema".:"outbox" to :"pruner";
grant select on public.txstream_checkpoint to :"pruner";
\echo 'roles and grants are complete'
\else
\echo 'roles are there; run txstream migrate up as the owner role, then this file again for the grants'
\endif

-- The writer service keeps its orders in a table of its own.
select format('grant select, insert on %s to %I', oid::regclass, :'writer') from pg_class
 where relname = 'orders' and relnamespace = 'public'::regnamespace and relkind = 'r'
   and pg_get_userbyid(relowner) = :'owner' \gexec
