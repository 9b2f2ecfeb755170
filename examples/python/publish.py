"""A business row and its event in one transaction: both are stored, or neither is."""

import os
import uuid
from decimal import Decimal

import psycopg
from psycopg.types.json import Jsonb


def issue_invoice(db, customer, total):
    with db.transaction():
        row = db.execute("insert into invoices (customer, total) values (%s, %s) returning id", (customer, total))
        (invoice,) = row.fetchone()
        event = uuid.uuid4()
        payload = Jsonb({"invoice": invoice, "customer": customer, "total": str(total)})
        db.execute(
            "insert into outbox (id, aggregatetype, aggregateid, type, payload) values (%s, 'invoice', %s, 'InvoiceIssued', %s)",
            (event, str(invoice), payload),
        )
        if total > 1000:
            raise ValueError(f"{total} is over the limit")
    return invoice, event


with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as db:
    print("committed invoice %s with event %s" % issue_invoice(db, "Ada", Decimal("99.90")))
    try:
        issue_invoice(db, "Bob", Decimal("5000.00"))
    except ValueError as error:
        print("rolled back:", error)
