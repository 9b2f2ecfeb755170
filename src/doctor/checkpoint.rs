//! The tables of txstream itself: without them a relay does not start.

use tokio_postgres::types::Type;

use super::server::Server;
use super::{Checked, Finding};

pub(super) const NAME: &str = "tables";

pub(super) async fn check(server: &Server<'_>) -> Checked {
    let mut missing = Vec::new();
    for table in ["txstream_checkpoint", "txstream_dead_letter"] {
        let sql = "select to_regclass($1) is not null";
        let name = format!("public.{table}");
        if !server.value::<bool>("look for txstream's tables", sql, &[(&name, Type::TEXT)]).await? {
            missing.push(table);
        }
    }
    Ok(vec![if missing.is_empty() {
        Finding::ok(NAME, "the tables of txstream are there")
    } else {
        Finding::fail(NAME, format!("{} is missing in database {}", missing.join(" and "), server.database))
            .mended_by("txstream migrate up")
    }])
}
