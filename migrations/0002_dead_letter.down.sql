drop table public.txstream_dead_letter;
