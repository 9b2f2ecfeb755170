use super::*;

fn server(code: &str, message: &str, replication_command: bool) -> PgError {
    let error = ServerError {
        severity: "ERROR".into(),
        code: code.into(),
        message: message.into(),
        ..ServerError::default()
    };
    PgError::Server { doing: "try".into(), replication_command, error: Box::new(error) }
}

#[test]
fn sqlstates_are_sorted_by_the_table() {
    for code in ["08006", "08P01", "57P01", "57P02", "57P03", "53300", "40001", "0A000", "XX000", "", "58000"]
    {
        assert_eq!(Class::of_sqlstate(code), Class::Retry, "{code}");
    }
    assert_eq!(Class::of_sqlstate("55006"), Class::Busy);
    for code in ["28000", "28P01", "3D000", "42501", "42601", "42704", "55000", "58P01", "22023"] {
        assert_eq!(Class::of_sqlstate(code), Class::Halt, "{code}");
    }
}

#[test]
fn errors_without_sqlstate_are_retried_unless_only_a_person_can_mend_them() {
    let io = |kind: io::ErrorKind| PgError::from_io("talk", kind.into());
    for error in [
        io(io::ErrorKind::ConnectionRefused),
        io(io::ErrorKind::UnexpectedEof),
        PgError::Timeout { doing: "talk".into(), limit: Duration::from_secs(1) },
        PgError::StreamEnded { by: "CopyDone" },
        PgError::protocol("talk", "nonsense"),
        PgError::Tls { doing: "talk".into(), source: "no".into() },
        PgError::NotWanted { endpoint: "h:1".into(), is: "a standby" },
    ] {
        assert_eq!(error.class(), Class::Retry, "{error:?}");
    }
    assert_eq!(PgError::Setting("x".into()).class(), Class::Halt);
    assert_eq!(PgError::Auth("x".into()).class(), Class::Halt);
}

#[test]
fn a_peer_that_goes_away_is_one_thing() {
    for kind in [io::ErrorKind::UnexpectedEof, io::ErrorKind::ConnectionReset, io::ErrorKind::BrokenPipe] {
        assert!(matches!(PgError::from_io("talk", kind.into()), PgError::Closed { .. }), "{kind:?}");
    }
    assert!(matches!(PgError::from_io("talk", io::ErrorKind::InvalidData.into()), PgError::Protocol { .. }));
    assert!(matches!(PgError::from_io("talk", io::ErrorKind::HostUnreachable.into()), PgError::Io { .. }));
}

#[test]
fn hints_name_what_helps() {
    for (code, message, replication, hint) in [
        ("08P01", "bouncer config error", true, "REPLICATION_URL"),
        ("42601", "syntax error at or near \"IDENTIFY_SYSTEM\"", true, "REPLICATION_URL"),
        ("28P01", "password authentication failed", false, "user and password"),
        ("28000", "no pg_hba.conf entry for host", true, "pg_hba.conf"),
        ("28000", "role \"x\" does not exist", false, "create the role"),
        ("3D000", "database \"x\" does not exist", false, "createdb"),
        ("42501", "must be superuser or replication role to start walsender", true, "rds_replication"),
        ("42501", "permission denied to start WAL sender", false, "ALTER ROLE name REPLICATION"),
        ("42501", "permission denied for table outbox", false, "grant"),
        ("42704", "replication slot \"s\" does not exist", true, "txstream slot create"),
        ("42704", "publication \"p\" does not exist", false, "txstream migrate up"),
        ("55000", "logical decoding requires wal_level >= logical", true, "wal_level = logical"),
        ("55000", "cannot read from logical replication slot \"s\"", true, "txstream slot reset --backfill"),
        ("55000", "can no longer access replication slot \"s\"", true, "txstream slot reset --backfill"),
        ("58P01", "requested WAL segment has already been removed", false, "txstream slot reset --backfill"),
        ("53400", "all replication slots are in use", true, "max_replication_slots"),
        ("53300", "number of requested standby connections exceeds max_wal_senders", true, "max_wal_senders"),
    ] {
        let found = server(code, message, replication).hint();
        assert!(found.as_deref().is_some_and(|found| found.contains(hint)), "{code} {message}: {found:?}");
    }
    assert_eq!(server("XX000", "odd", true).hint(), None);
    let refused = PgError::from_io("connect", io::ErrorKind::ConnectionRefused.into());
    assert!(refused.hint().unwrap().contains("Postgres is running"));
}

#[test]
fn a_report_is_one_line_with_every_cause_once() {
    let error = PgError::Io { doing: "connect to h:1".into(), source: io::Error::other("no route to host") };
    assert_eq!(error.report(), "cannot connect to h:1: no route to host");
    let error = server("55006", "replication slot \"s\" is active for PID 7", true);
    assert_eq!(
        error.report(),
        "cannot try: ERROR: replication slot \"s\" is active for PID 7 (SQLSTATE 55006)"
    );
}
