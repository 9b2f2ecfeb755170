drop table public.txstream_migrations;
