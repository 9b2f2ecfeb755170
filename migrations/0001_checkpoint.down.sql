drop table public.txstream_checkpoint;
