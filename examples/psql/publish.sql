-- A business row and its event in one transaction: both are stored, or neither is.
\set QUIET on
\set ON_ERROR_STOP on

begin;
insert into invoices (customer, total) values ('Ada', 99.90) returning id as invoice, customer, total \gset
select outbox_publish('invoice', :'invoice', 'InvoiceIssued',
                      jsonb_build_object('invoice', :invoice, 'customer', :'customer', 'total', :'total')) as event \gset
commit;
\echo committed invoice :invoice with event :event

begin;
insert into invoices (customer, total) values ('Bob', 5000.00) returning id as invoice, customer, total, total > 1000 as over \gset
select outbox_publish('invoice', :'invoice', 'InvoiceIssued',
                      jsonb_build_object('invoice', :invoice, 'customer', :'customer', 'total', :'total')) as event \gset
\if :over
rollback;
\echo rolled back: :total is over the limit
\else
commit;
\endif
