-- Records that Kafka did not take, and the later ones of their keys, until they are replayed or discarded.
create table public.txstream_dead_letter (
    -- Order of replay.
    seq           bigint      generated always as identity primary key,
    slot          text        not null,
    -- The outbox table as schema.name, and the row's id as text; no id where the row has none.
    table_name    text        not null,
    row_id        text,
    -- Position in the stream; none for a row that came by backfill.
    commit_lsn    pg_lsn,
    ordinal       bigint,
    -- The record, byte for byte; none for a row that cannot be mapped.
    topic         text,
    key           bytea,
    payload       bytea,
    header_names  text[],
    header_values bytea[],
    event_type    text,
    -- The values of a row that cannot be mapped, by column, as text.
    columns       jsonb,
    reason        text        not null,
    error         text        not null,
    parked_at     timestamptz not null default now(),
    check ((topic is null) = (columns is not null)),
    check ((topic is null) = (key is null)),
    check (cardinality(header_names) = cardinality(header_values)),
    check (row_id is not null or (commit_lsn is not null and ordinal is not null))
);
-- Parking the same row again changes nothing.
create unique index txstream_dead_letter_row
    on public.txstream_dead_letter (slot, table_name, row_id) where row_id is not null;
create unique index txstream_dead_letter_position
    on public.txstream_dead_letter (slot, table_name, commit_lsn, ordinal) where row_id is null;
-- A hash, because a key may be longer than a btree takes.
create index txstream_dead_letter_key on public.txstream_dead_letter using hash (key);
