"""Adds invoices up by customer. However often an event comes, it counts once.

The relay may send a record again after a crash, with the same `id` header; this consumer may get one again because it
ended between its transaction and its offset. The id is stored in the transaction of the effect: who finds it there
leaves the event out.
"""

import json
import os
import signal

import psycopg
from confluent_kafka import Consumer, KafkaError, KafkaException

GROUP = os.environ.get("KAFKA_GROUP_ID", "customer-totals")


def process(db, record):
    """The effect and its id in one transaction."""
    event_id = dict(record.headers())["id"].decode()
    invoice = json.loads(record.value())
    with db.transaction():
        new = db.execute(
            "insert into processed_events (consumer, id) values (%s, %s) on conflict do nothing", (GROUP, event_id)
        )
        if new.rowcount == 0:
            print("seen before:", event_id, flush=True)
            return
        db.execute(
            """insert into customer_totals (customer, total, invoices) values (%s, %s, 1)
               on conflict (customer) do update set
                   total = customer_totals.total + excluded.total, invoices = customer_totals.invoices + 1""",
            (invoice["customer"], invoice["total"]),
        )


def main():
    running = True

    def stop(*_):
        nonlocal running
        running = False

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    consumer = Consumer(
        {
            "bootstrap.servers": os.environ.get("KAFKA_BROKERS", "localhost:9092"),
            "group.id": GROUP,
            "auto.offset.reset": "earliest",
            # So long after a crash the partitions wait for their consumer.
            "session.timeout.ms": 10000,
            # Only what is committed in the database is passed over, by us, below.
            "enable.auto.commit": False,
        }
    )
    consumer.subscribe([os.environ.get("KAFKA_TOPIC", "outbox.event.invoice")])
    with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as db:
        while running:
            records = consumer.consume(num_messages=500, timeout=0.2)
            for record in records:
                if not record.error():
                    process(db, record)
                # The topic comes with its first event.
                elif record.error().code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                    raise KafkaException(record.error())
            if records:
                consumer.commit(asynchronous=False)
    consumer.close()


main()
