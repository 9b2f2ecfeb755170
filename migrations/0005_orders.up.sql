-- The orders of `txstream writer`. Money is numeric, and the addresses are two columns.
create table public.orders (
    id               uuid         primary key default gen_random_uuid(),
    customer_id      varchar(255) not null,
    order_number     varchar(255) not null unique,
    status           varchar(50)  not null default 'pending',
    -- The sum of quantity times unit price, exact.
    total_amount     numeric      not null check (total_amount >= 0),
    currency         varchar(3)   not null,
    -- An array of product_id, product_name, quantity, unit_price.
    items            jsonb        not null,
    shipping_address jsonb        not null,
    billing_address  jsonb        not null,
    created_at       timestamptz  not null default now(),
    updated_at       timestamptz  not null default now()
);
-- Lists are newest first.
create index orders_newest on public.orders (created_at desc, id desc);
