-- The rows whose messages are kept beside this file as text.hex and binary.hex. To take them again:
--
--   createdb golden    (UTF8, wal_level = logical)
--   psql -X -At -d golden -f rows.sql
--
-- It writes both files into the working directory: a message a line, in hex, `hh*n` for a byte that
-- comes n times. PostgreSQL 15 wrote the kept ones.
\set ON_ERROR_STOP on
\set QUIET on
set client_encoding = 'UTF8';
set timezone = 'UTC';
set datestyle = 'ISO';
set bytea_output = 'hex';

create table outbox(
    id uuid primary key default gen_random_uuid(),
    aggregatetype varchar(255) not null, aggregateid varchar(255) not null, type varchar(255) not null,
    payload jsonb, headers jsonb, tracingspancontext varchar(256),
    "timestamp" timestamp not null default (now() at time zone 'utc'));
create table placed(
    id uuid, aggregatetype name, aggregateid bigint, type text, payload varchar(8000),
    b boolean, s smallint, i integer, o oid, c char(5), raw bytea, d date, t timestamp, z timestamptz);
create schema "My Schema";
create table "My Schema"."Out.box"(id bigint, aggregatetype text, aggregateid integer, type text, payload bytea, headers text);
create table plain(id uuid, aggregatetype text, aggregateid bytea, type text, payload json, headers json);
create table events(
    id uuid, aggregate_id varchar(255), aggregate_type varchar(100), event_type varchar(100),
    event_data jsonb, event_metadata jsonb, status varchar(20), price numeric, created_at timestamptz);
create table foreign_one(n numeric);
create publication golden for all tables with (publish = 'insert');
select from pg_create_logical_replication_slot('golden', 'pgoutput');

begin;
insert into outbox values
    ('00000000-0000-4000-8000-000000000001', 'Order', 'o-1', 'OrderCreated',
     '{"b": [1, "two", null, {"three": []}, 4.50, [true, false]], "a": 1e400, "ä": "\u00e4 \ud83d\ude00 \" \\ \n", "b": [1, "two", null, {}, 4.50]}',
     '{"tenant": "größe \"7\"", "n": 1.10, "none": null, "nested": {"a": [1, 2]}, "id": "not mine", "yes": true}',
     E'#Mon May 06 07:08:09 UTC 2024\ntracestate=vendor\\=1\ntraceparent=00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\n',
     '2024-05-06 07:08:09.123456'),
    ('00000000-0000-4000-8000-000000000002', 'Order', '', 'OrderCleared', null, '{}', 'garbage', '-infinity'),
    ('00000000-0000-4000-8000-000000000003', 'Order', 'größe 😀', 'OrderPadded',
     jsonb_build_object('pad', repeat('x', 900000)), null, '', '2024-05-06 07:08:09'),
    ('00000000-0000-4000-8000-000000000004', 'Order/Line', 'o-4', 'OrderCreated', '[]', null, null, '2024-05-06 07:08:09.5'),
    ('00000000-0000-4000-8000-000000000005', 'Order', 'o-5', 'OrderCreated', '""', '["no", "object"]', null, '2024-05-06');
insert into foreign_one values (1);
commit;
alter table outbox add column extra numeric default 1.50, drop column "timestamp";
insert into outbox values ('00000000-0000-4000-8000-000000000006', 'Order', 'o-1', 'OrderChanged', '1e-7', null, null, 2);
insert into placed values
    ('00000000-0000-4000-8000-000000000007', 'Customer', -9223372036854775808, 'blank', '  ',
     true, -32768, 2147483647, 4294967295, 'ab', '\x00ff5c', '0044-12-15 BC', '0044-12-15 12:00:00.000001 BC', '2024-02-29 23:59:59.9999+00'),
    ('00000000-0000-4000-8000-000000000008', 'Customer', 0, 'empty', '', false, 0, 0, 0, '', '', 'infinity', 'infinity', '-infinity'),
    ('00000000-0000-4000-8000-000000000009', 'Customer', 1, 'nulls', null, null, null, null, null, null, null, null, null, null),
    ('00000000-0000-4000-8000-00000000000a', 'Customer', 2, 'far', '{"is": "text"}', true, 1, -1, 1, 'äöüß', '\xdeadbeef',
     '12345-06-07', '294276-12-31 23:59:59.999999', '4713-01-01 00:00:00+00 BC');
insert into "My Schema"."Out.box" values
    (1, 'Image', 7, 'stored', '\x89504e470d0a1a0a00ff', 'a header column that is not JSON'),
    (2, 'Image', -7, 'emptied', '', null);
insert into plain values
    ('00000000-0000-4000-8000-00000000000b', 'Raw', '\xff00', 'kept',
     E' {"b" : 1e400,\n "a": "\\u0000", "b":1.0 } ', '{"z": "\u0041\u0000", "y":  {"k" : 1e400}, "z": 2}');
insert into plain values ('00000000-0000-4000-8000-00000000000c', null, '\x00', 'broken', '{"secret": 1}', null);
insert into events values
    ('00000000-0000-4000-8000-00000000000d', 'a-"1"', 'Order', E'Order\tCreated\\', '{"total": 10.50, "a": [1, "x"]}', null, 'pending', 1.5, '2024-05-06 07:08:09.999999+02'),
    ('00000000-0000-4000-8000-00000000000e', 'ä-2', 'Order', 'OrderChanged', 'null', '{"user": "ü"}', 'published', null, '2024-05-06 07:08:09+00'),
    ('00000000-0000-4000-8000-00000000000f', 'a-3', 'Order', 'OrderChanged', null, null, null, null, 'infinity');

create function pg_temp.messages(is_binary text) returns setof text language sql as $$
    select replace(encode(data, 'hex'), repeat('78', 900000), ' 78*900000 ')
    from pg_logical_slot_peek_binary_changes('golden', null, null,
        'proto_version', '1', 'publication_names', 'golden', 'binary', is_binary)
$$;
\o text.hex
select pg_temp.messages('false');
\o binary.hex
select pg_temp.messages('true');
\o
select from pg_drop_replication_slot('golden');
