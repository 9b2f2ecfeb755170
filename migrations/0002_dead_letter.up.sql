-- Records that Kafka did not take, and the later ones of their keys, until they are replayed or discarded.
create table public.txstream_dead_letter (
    -- Names a stored version of a letter: a letter that comes again, after a crash, gets another number, so
    -- that a replay which published the older one does not delete what is stored behind its back.
    seq           bigint      generated always as identity primary key,
    slot          text        not null,
    -- The outbox table as schema.name, and the row's id as text; no id where the row has none.
    table_name    text        not null,
    row_id        text,
    -- Position in the stream, strictly rising in commit order: the order of replay. A backfilled row has the
    -- position at which its slot begins.
    commit_lsn    pg_lsn      not null,
    ordinal       bigint      not null,
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
    check (cardinality(header_names) = cardinality(header_values))
);
-- Parking the same row again adds nothing. A hash, because an id may be longer than a btree takes.
create unique index txstream_dead_letter_position
    on public.txstream_dead_letter (slot, commit_lsn, ordinal, md5(coalesce(row_id, '')));
-- A key's letters in order, and which keys have any. A hash again.
create index txstream_dead_letter_key
    on public.txstream_dead_letter (slot, topic, md5(key), commit_lsn, ordinal);
create index txstream_dead_letter_row on public.txstream_dead_letter using hash (row_id);
