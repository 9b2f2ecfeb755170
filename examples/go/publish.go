// A business row and its event in one transaction: both are stored, or neither is.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/jackc/pgx/v5"
)

var errOverTheLimit = errors.New("over the limit")

func issueInvoice(ctx context.Context, db *pgx.Conn, customer, total string) (invoice int64, event string, err error) {
	err = pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
		var over bool
		row := tx.QueryRow(ctx, "insert into invoices (customer, total) values ($1, $2) returning id, total > 1000", customer, total)
		if err := row.Scan(&invoice, &over); err != nil {
			return err
		}
		payload := map[string]any{"invoice": invoice, "customer": customer, "total": total}
		row = tx.QueryRow(ctx, `insert into outbox (id, aggregatetype, aggregateid, type, payload)
			values (gen_random_uuid(), 'invoice', $1, 'InvoiceIssued', $2) returning id::text`, fmt.Sprint(invoice), payload)
		if err := row.Scan(&event); err != nil {
			return err
		}
		if over {
			return fmt.Errorf("%s is %w", total, errOverTheLimit)
		}
		return nil
	})
	return invoice, event, err
}

func main() {
	ctx := context.Background()
	db, err := pgx.Connect(ctx, os.Getenv("DATABASE_URL"))
	check(err)
	defer db.Close(ctx)

	invoice, event, err := issueInvoice(ctx, db, "Ada", "99.90")
	check(err)
	fmt.Printf("committed invoice %d with event %s\n", invoice, event)

	_, _, err = issueInvoice(ctx, db, "Bob", "5000.00")
	if !errors.Is(err, errOverTheLimit) {
		check(err)
	}
	fmt.Println("rolled back:", err)
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
