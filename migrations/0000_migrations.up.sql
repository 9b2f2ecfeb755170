-- What `txstream migrate up` found and made, one row per object. Only what it made is ever dropped.
create table public.txstream_migrations (
    version    integer     not null,
    kind       text        not null check (kind in ('table', 'function', 'publication')),
    -- As SQL writes it, quoted and with its schema.
    object     text        not null,
    -- Tells our object from another that took its name later.
    object_oid oid         not null,
    -- False: it was there before; never altered, never dropped.
    created    boolean     not null,
    -- SHA-256 of the migration's text, in hexadecimal.
    checksum   text        not null,
    applied_at timestamptz not null default now(),
    primary key (version, object)
);
