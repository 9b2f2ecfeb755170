//! Publications that send updates or deletes of an outbox table: without a replica identity Postgres refuses
//! every UPDATE and DELETE of it, and with one they are sent for nothing.

use postgres_protocol::escape::escape_identifier;
use tokio_postgres::types::Type;

use super::server::Server;
use super::{Checked, Finding};

pub(super) const NAME: &str = "replica_identity";

/// Every publication that sends updates or deletes of the table or of a part of it: its name, whether a
/// table of it has no replica identity, and whether it has no table but outbox tables.
const SENDING: &str = "\
select p.pubname::text,
       bool_or(case c.relreplident
           when 'f' then false
           when 'd' then not exists (select from pg_catalog.pg_index i where i.indrelid = c.oid and i.indisprimary)
           when 'i' then not exists (select from pg_catalog.pg_index i where i.indrelid = c.oid and i.indisreplident)
           else true end),
       not p.puballtables and not exists (
           select from pg_catalog.pg_publication_tables o
            where o.pubname = p.pubname and format('%s.%s', o.schemaname, o.tablename) <> all ($2))
  from pg_catalog.pg_publication p
  join pg_catalog.pg_publication_tables pt on pt.pubname = p.pubname
  join pg_catalog.pg_class c on c.oid = to_regclass(format('%I.%I', pt.schemaname, pt.tablename))
 where (p.pubupdate or p.pubdelete)
   and (c.oid = $1 or c.oid in (select relid from pg_catalog.pg_partition_tree($1))
                   or c.oid in (select relid from pg_catalog.pg_partition_ancestors($1)))
 group by p.pubname, p.puballtables
 order by 1";

pub(super) async fn check(server: &Server<'_>) -> Checked {
    let ours: Vec<String> = server.existing().map(|(_, table)| table.display()).collect();
    let mut findings = Vec::new();
    for (name, table) in server.existing() {
        let params: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 2] =
            [(&table.oid, Type::OID), (&ours, Type::TEXT_ARRAY)];
        for row in server.rows("look for publications of the outbox table", SENDING, &params).await? {
            let (publication, stuck, outbox_only): (String, bool, bool) =
                (row.get(0), row.get(1), row.get(2));
            let inserts_only =
                format!("ALTER PUBLICATION {} SET (publish = 'insert');", escape_identifier(&publication));
            let relays = publication == server.subject.publication;
            if stuck {
                let why = format!(
                    "publication {publication} sends updates or deletes of {name}, which has no replica identity: every \
                     UPDATE or DELETE of an outbox row fails"
                );
                // What others read must go on as it is.
                let identity = format!("ALTER TABLE {} REPLICA IDENTITY FULL;", table.quoted());
                let mend = if relays && outbox_only { inserts_only } else { identity };
                findings.push(Finding::fail(NAME, why).mended_by(mend));
            } else if relays {
                let why = format!(
                    "publication {publication} sends updates, deletes or truncates of {name}: they make no record and \
                     are read for nothing"
                );
                let finding = Finding::warn(NAME, why);
                findings.push(if outbox_only { finding.mended_by(inserts_only) } else { finding });
            }
        }
    }
    if findings.is_empty() {
        findings.push(Finding::ok(NAME, "no publication makes an UPDATE or DELETE of an outbox row fail"));
    }
    Ok(findings)
}
