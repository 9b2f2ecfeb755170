//! A business row and its event in one transaction: both are stored, or neither is.
#![allow(clippy::print_stdout, reason = "an example")]

use serde_json::json;
use tokio_postgres::{Client, NoTls};
use uuid::Uuid;

type Error = Box<dyn std::error::Error>;

async fn issue_invoice(db: &mut Client, customer: &str, total: &str) -> Result<(i64, Uuid), Error> {
    // Dropped without a commit, it is rolled back.
    let transaction = db.transaction().await?;
    let insert =
        "insert into invoices (customer, total) values ($1, $2::text::numeric) returning id, total > 1000";
    let row = transaction.query_one(insert, &[&customer, &total]).await?;
    let (invoice, over): (i64, bool) = (row.get(0), row.get(1));
    let event = Uuid::new_v4();
    let insert = "insert into outbox (id, aggregatetype, aggregateid, type, payload)
                      values ($1, 'invoice', $2, 'InvoiceIssued', $3)";
    let payload = json!({"invoice": invoice, "customer": customer, "total": total});
    transaction.execute(insert, &[&event, &invoice.to_string(), &payload]).await?;
    if over {
        return Err(format!("{total} is over the limit").into());
    }
    transaction.commit().await?;
    Ok((invoice, event))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let (mut db, connection) = tokio_postgres::connect(&std::env::var("DATABASE_URL")?, NoTls).await?;
    tokio::spawn(connection);
    let (invoice, event) = issue_invoice(&mut db, "Ada", "99.90").await?;
    println!("committed invoice {invoice} with event {event}");
    match issue_invoice(&mut db, "Bob", "5000.00").await {
        Err(refused) if refused.to_string().contains("over the limit") => println!("rolled back: {refused}"),
        unexpected => return unexpected.map(|_| ()),
    }
    Ok(())
}
