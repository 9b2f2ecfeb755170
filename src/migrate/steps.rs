//! The embedded SQL, and which objects it makes for given settings.

use std::fmt::Write as _;

use postgres_protocol::escape::escape_identifier;

use super::Settings;
use crate::outbox::{Preset, TableName};
use crate::postgres::publication::quoted;

/// What a step makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A table.
    Table,
    /// A function.
    Function,
    /// The publication.
    Publication,
}

impl Kind {
    /// As it stands in `txstream_migrations`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Table => "table",
            Self::Function => "function",
            Self::Publication => "publication",
        }
    }

    /// The reverse of [`Kind::as_str`].
    pub(super) fn parse(text: &str) -> Option<Self> {
        [Self::Table, Self::Function, Self::Publication].into_iter().find(|kind| kind.as_str() == text)
    }
}

/// A numbered migration. `{words}` in its SQL stand for the names of the settings.
#[derive(Debug)]
pub(super) struct Step {
    /// Its number, in `migrations/` and in `txstream_migrations`.
    pub(super) version: i32,
    /// Its name there.
    pub(super) name: &'static str,
    /// What it makes.
    pub(super) kind: Kind,
    /// Makes it.
    pub(super) up: &'static str,
    /// Drops it.
    pub(super) down: &'static str,
    /// Columns that a table must have that was there before.
    pub(super) columns: &'static [&'static str],
}

macro_rules! step {
    ($version:literal, $number:literal, $name:literal, $kind:ident, $columns:expr) => {
        Step {
            version: $version,
            name: $name,
            kind: Kind::$kind,
            up: include_str!(concat!("../../migrations/", $number, "_", $name, ".up.sql")),
            down: include_str!(concat!("../../migrations/", $number, "_", $name, ".down.sql")),
            columns: $columns,
        }
    };
}

/// Where the record of the migrations lives.
pub(super) const RECORD_UP: &str = include_str!("../../migrations/0000_migrations.up.sql");
/// Drops it.
pub(super) const RECORD_DOWN: &str = include_str!("../../migrations/0000_migrations.down.sql");

/// The step of the writer's own table, whose name an application may well have taken before.
pub(super) const ORDERS: &str = "orders";

/// Every step, in order: the publication is the last, whatever comes to stand before it.
pub(super) static STEPS: [Step; 6] = [
    step!(
        1,
        "0001",
        "checkpoint",
        Table,
        &[
            "slot",
            "system_identifier",
            "database",
            "confirmed_lsn",
            "instance",
            "clean",
            "recovery_xid",
            "recovery_lsn",
            "dropped",
            "backfill_pending",
            "rejected",
            "updated_at",
        ]
    ),
    step!(
        2,
        "0002",
        "dead_letter",
        Table,
        &[
            "seq",
            "slot",
            "table_name",
            "row_id",
            "commit_lsn",
            "ordinal",
            "topic",
            "key",
            "payload",
            "header_names",
            "header_values",
            "event_type",
            "columns",
            "reason",
            "error",
            "parked_at",
        ]
    ),
    step!(3, "0003", "outbox", Table, &[]),
    step!(4, "0004", "outbox_publish", Function, &[]),
    step!(
        5,
        "0005",
        "orders",
        Table,
        &[
            "id",
            "customer_id",
            "order_number",
            "status",
            "total_amount",
            "currency",
            "items",
            "shipping_address",
            "billing_address",
            "created_at",
            "updated_at",
        ]
    ),
    step!(100, "0100", "publication", Publication, &[]),
];

/// The step with this number.
pub(super) fn step(version: i32) -> Option<&'static Step> {
    STEPS.iter().find(|step| step.version == version)
}

impl Step {
    /// SHA-256 of its SQL, in hexadecimal.
    pub(super) fn checksum(&self) -> String {
        let mut hash = openssl::sha::Sha256::new();
        hash.update(self.up.as_bytes());
        hash.finish().iter().fold(String::with_capacity(64), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
    }

    /// The SQL that drops this object of the step.
    pub(super) fn down_sql(&self, object: &str) -> String {
        self.down.replace("{object}", object)
    }
}

/// One object that there should be.
#[derive(Debug, Clone)]
pub(super) struct Target<'a> {
    /// The step that makes it.
    pub(super) step: &'static Step,
    /// Its name for SQL.
    pub(super) object: String,
    /// Its schema and name, for a table.
    pub(super) table: TableName,
    /// The SQL that makes it.
    pub(super) up: String,
    /// The outbox table it is or serves.
    pub(super) outbox: Option<&'a TableName>,
}

/// The objects that there should be, in order; [`Kind::Publication`] is the last.
pub(super) fn targets<'a>(settings: &Settings<'a>) -> Vec<Target<'a>> {
    let mut targets = Vec::new();
    for step in &STEPS {
        match step.name {
            "outbox" => targets.extend(settings.outbox.tables.iter().map(|table| outbox(step, table))),
            "outbox_publish" => {
                let table = settings.outbox.tables.first();
                let serves = table.filter(|_| settings.outbox.preset == Preset::Debezium);
                targets.extend(serves.map(|table| publish(step, table)));
            }
            "publication" => targets.push(publication(step, settings)),
            ORDERS => targets.push(own(step, ORDERS)),
            name => targets.push(own(step, &format!("txstream_{name}"))),
        }
    }
    targets
}

fn own(step: &'static Step, name: &str) -> Target<'static> {
    let table = TableName { schema: "public".to_owned(), name: name.to_owned() };
    Target { step, object: quoted(&table.schema, &table.name), table, up: step.up.to_owned(), outbox: None }
}

fn outbox<'a>(step: &'static Step, table: &'a TableName) -> Target<'a> {
    let object = quoted(&table.schema, &table.name);
    let up = step.up.replace("{table}", &object);
    Target { step, object, table: table.clone(), up, outbox: Some(table) }
}

fn publish<'a>(step: &'static Step, table: &'a TableName) -> Target<'a> {
    let function = quoted(&table.schema, "outbox_publish");
    let up = step.up.replace("{function}", &function).replace("{table}", &quoted(&table.schema, &table.name));
    let name = TableName { schema: table.schema.clone(), name: "outbox_publish".to_owned() };
    Target {
        step,
        object: format!("{function}(text, text, text, jsonb, jsonb)"),
        table: name,
        up,
        outbox: Some(table),
    }
}

fn publication<'a>(step: &'static Step, settings: &Settings<'a>) -> Target<'a> {
    let object = escape_identifier(settings.publication);
    let tables: Vec<String> = settings.outbox.tables.iter().map(|t| quoted(&t.schema, &t.name)).collect();
    let up = step.up.replace("{publication}", &object).replace("{tables}", &tables.join(", "));
    let name = TableName { schema: String::new(), name: settings.publication.to_owned() };
    Target { step, object, table: name, up, outbox: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbox;

    fn table(name: &str) -> TableName {
        TableName { schema: "public".into(), name: name.into() }
    }

    #[test]
    fn every_file_in_migrations_is_embedded_and_none_is_missing() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/migrations");
        let mut files: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        files.sort();
        let mut embedded = vec!["0000_migrations.down.sql".to_owned(), "0000_migrations.up.sql".to_owned()];
        for step in &STEPS {
            embedded.push(format!("{:04}_{}.down.sql", step.version, step.name));
            embedded.push(format!("{:04}_{}.up.sql", step.version, step.name));
        }
        assert_eq!(files, embedded, "also: numbers rise");
    }

    #[test]
    fn no_placeholder_is_left_and_names_are_quoted() {
        let outbox = outbox::Settings {
            tables: vec![table("outbox"), table("we\"ird")],
            preset: Preset::Debezium,
            placement: Vec::new(),
            fixed_topic: None,
        };
        let targets = targets(&Settings { outbox: &outbox, publication: "p\"b" });
        assert_eq!(targets.len(), 7);
        for target in &targets {
            for word in ["{table", "{function", "{publication", "{object"] {
                assert!(!target.up.contains(word), "{}", target.up);
                assert!(!target.step.down_sql(&target.object).contains(word));
            }
        }
        assert!(targets[3].up.contains(r#"create table "public"."we""ird" ("#));
        let last = targets.last().unwrap();
        assert_eq!(last.step.kind, Kind::Publication);
        assert!(last.up.contains(r#"publication "p""b" for table "public"."outbox", "public"."we""ird""#));
    }

    #[test]
    fn the_ancestors_table_gets_no_function_of_ours() {
        let outbox = outbox::Settings {
            tables: vec![table("outbox")],
            preset: Preset::Txstream,
            placement: Vec::new(),
            fixed_topic: None,
        };
        let targets = targets(&Settings { outbox: &outbox, publication: "p" });
        assert!(targets.iter().all(|target| target.step.kind != Kind::Function));
    }

    #[test]
    fn a_checksum_is_the_sha_256_of_the_text() {
        let step = Step { version: 9, name: "x", kind: Kind::Table, up: "abc", down: "", columns: &[] };
        assert_eq!(step.checksum(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
