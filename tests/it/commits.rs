//! Whatever a database sets, our own writes commit locally: no lost one to do again, none that waits for a
//! standby.

use crate::support::{Outbox, eventually, wait::SOON};

/// Whoever changes something in this database leaves a note of how durable that commit will be.
const NOTES: &str = "
    create table public.noted (what text, level text);
    create function public.note() returns trigger language plpgsql as $$ begin
        insert into public.noted values (tg_op || ' ' || tg_table_name, current_setting('synchronous_commit'));
        return null;
    end $$;
    create function public.note_command() returns event_trigger language plpgsql as $$ begin
        insert into public.noted values (tg_tag, current_setting('synchronous_commit'));
    end $$;
    create event trigger note_command on ddl_command_end execute function public.note_command()";

/// Rows of the outbox are written by applications, and deleted by us alone.
const OF_TABLES: &str = "
    create trigger note after insert or update or delete on txstream_checkpoint
        for each statement execute function public.note();
    create trigger note after insert or update or delete on txstream_dead_letter
        for each statement execute function public.note();
    create trigger note after delete on outbox for each statement execute function public.note();
    delete from public.noted";

/// Asserts that there are such notes, and that all there are say `local`; begins anew.
async fn noted(outbox: &Outbox, what: &str) {
    let notes = outbox.database.query("delete from public.noted returning what, level").await;
    let notes: Vec<(String, String)> = notes.iter().map(|note| (note.get(0), note.get(1))).collect();
    assert!(notes.iter().any(|(noted, _)| noted == what), "{what} is missing in {notes:?}");
    assert!(notes.iter().all(|(_, level)| level == "local"), "{notes:?}");
}

#[tokio::test]
async fn every_write_of_ours_commits_locally_whatever_the_database_says() {
    let outbox = Outbox::bare().await;
    let name = outbox.database.name();
    outbox.database.exec(&format!("alter database {name} set synchronous_commit = remote_apply")).await;
    outbox.database.exec(NOTES).await;
    outbox.done(&["migrate", "up"]).await;
    noted(&outbox, "CREATE TABLE").await;

    outbox.database.exec(OF_TABLES).await;
    outbox.done(&["slot", "create", "--lock-timeout", "30s"]).await;
    noted(&outbox, "INSERT txstream_checkpoint").await;

    let relay = outbox.streaming(&[], &[]).await;
    eventually(SOON, "rows are pruned", async || {
        let pruned = outbox.cli(&["outbox", "prune", "--older-than", "0"]).await;
        (pruned.code == Some(0)).then_some(())
    })
    .await;
    noted(&outbox, "DELETE outbox").await;
    relay.sigterm().await;
    assert_eq!(relay.wait_exit(SOON).await.status.code(), Some(0));
    noted(&outbox, "INSERT txstream_checkpoint").await;

    for (id, command) in [("1", "replay"), ("2", "discard")] {
        let letter = format!(
            "insert into txstream_dead_letter
                 (slot, table_name, row_id, commit_lsn, ordinal, topic, key, payload, header_names, header_values,
                  event_type, reason, error)
             values ('{name}', 'public.outbox', '{id}', '0/1', {id}, 'outbox.event.ready', 'k', '{{}}', '{{}}', '{{}}',
                     't', 'r', 'e');
             delete from public.noted"
        );
        outbox.database.exec(&letter).await;
        outbox.repair(&["dead-letter", command, "--all", "--yes"]).await;
        noted(&outbox, "DELETE txstream_dead_letter").await;
    }

    outbox.done(&["slot", "drop", "--yes"]).await;
    noted(&outbox, "UPDATE txstream_checkpoint").await;
    outbox.done(&["migrate", "down", "--yes"]).await;
    noted(&outbox, "DROP TABLE").await;
}
