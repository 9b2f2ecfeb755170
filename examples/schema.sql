-- The application's own table. The table outbox comes from txstream migrate up.
create table if not exists invoices (
    id       bigint         generated always as identity primary key,
    customer text           not null,
    total    numeric(12, 2) not null
);
