// A business row and its event in one transaction: both are stored, or neither is.
import { randomUUID } from "node:crypto";
import pg from "pg";

async function issueInvoice(db, customer, total) {
  await db.query("begin");
  try {
    const { rows } = await db.query(
      "insert into invoices (customer, total) values ($1, $2) returning id, total > 1000 as over", [customer, total]);
    const invoice = Number(rows[0].id);
    const event = randomUUID();
    await db.query(
      "insert into outbox (id, aggregatetype, aggregateid, type, payload) values ($1, 'invoice', $2, 'InvoiceIssued', $3)",
      [event, String(invoice), { invoice, customer, total }]);
    if (rows[0].over) throw new RangeError(`${total} is over the limit`);
    await db.query("commit");
    return { invoice, event };
  } catch (error) {
    await db.query("rollback");
    throw error;
  }
}

const db = new pg.Client({ connectionString: process.env.DATABASE_URL });
await db.connect();
const { invoice, event } = await issueInvoice(db, "Ada", "99.90");
console.log(`committed invoice ${invoice} with event ${event}`);
try {
  await issueInvoice(db, "Bob", "5000.00");
} catch (error) {
  if (!(error instanceof RangeError)) throw error;
  console.log(`rolled back: ${error.message}`);
}
await db.end();
