-- A row per slot. It detects a slot that was lost, moved or swapped; the position is the slot's alone.
create table public.txstream_checkpoint (
    slot              text        primary key,
    system_identifier text        not null,
    database          text        not null,
    -- What the holder last reported as flushed.
    confirmed_lsn     pg_lsn,
    -- The process that wrote the row, and whether it let go of the slot in order.
    instance          text        not null,
    clean             boolean     not null,
    -- Every transaction below the xid had ended before the LSN, and the LSN was confirmed since.
    recovery_xid      bigint,
    recovery_lsn      pg_lsn,
    -- `txstream slot drop` dropped the slot, so that its absence is no loss.
    dropped           boolean     not null default false,
    -- A backfill was begun and not finished: a relay waits.
    backfill_pending  boolean     not null default false,
    -- The record that Kafka refused at the last stop: the next start sends it alone first.
    rejected          jsonb,
    updated_at        timestamptz not null default now(),
    check ((recovery_xid is null) = (recovery_lsn is null))
);
