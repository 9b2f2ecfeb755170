use super::*;
use crate::config::variables::{Kind, VARIABLES};

fn given(arguments: &[&str]) -> flags::Given {
    match parse(arguments) {
        Ok(Parsed::Work(arguments)) => arguments.given,
        other => panic!("{other:?}"),
    }
}

#[test]
fn clap_finds_no_contradiction_in_the_commands() {
    command().debug_assert();
}

#[test]
fn every_variable_has_a_flag_and_help_names_both_but_no_flag_takes_a_secret() {
    for path in [&["relay"][..], &["slot", "status"], &["config"]] {
        let mut command = command();
        command.build();
        for name in path {
            command = command.find_subcommand(name).unwrap().clone();
        }
        let help = command.render_long_help().to_string();
        for variable in VARIABLES {
            let flag = match variable.kind {
                Kind::Secret => variable.file_flag(),
                _ => variable.flag(),
            };
            let flag = format!("--{} <", flag.unwrap());
            assert!(help.contains(&flag), "{path:?}: {flag}");
            assert!(help.contains(variable.name), "{path:?}: {}", variable.name);
        }
        for secret in ["--db-password <", "--server-auth-token <", "--metrics-admin-token <"] {
            assert!(!help.contains(secret), "{secret}");
        }
    }
}

#[test]
fn a_flag_stands_before_or_after_the_subcommand_and_the_later_wins() {
    for (arguments, value) in [
        (&["txstream", "--kafka-brokers", "a", "relay"][..], "a"),
        (&["txstream", "relay", "--kafka-brokers=b"], "b"),
        (&["txstream", "--kafka-brokers", "a", "slot", "--kafka-brokers", "b", "status"], "b"),
        (&["txstream", "slot", "--kafka-brokers", "b", "status", "--kafka-brokers", "c"], "c"),
    ] {
        assert_eq!(
            given(arguments).variables,
            [("KAFKA_BROKERS".to_owned(), value.to_owned())],
            "{arguments:?}"
        );
    }
}

#[test]
fn no_property_is_lost_wherever_it_stands() {
    let given = given(&["txstream", "-X", "a=1", "relay", "-Xb=2", "-X", "a=3"]);
    assert_eq!(given.properties, ["a=1", "b=2", "a=3"]);
}

#[test]
fn negative_numbers_and_files_are_values() {
    let given = given(&["txstream", "relay", "--kafka-max-retries", "-1", "--db-password-file", "/run/p"]);
    let pairs: Vec<_> = given.variables.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    assert_eq!(pairs, [("DB_PASSWORD_FILE", "/run/p"), ("KAFKA_MAX_RETRIES", "-1")]);
}

#[test]
fn bad_usage_is_64() {
    for arguments in [
        &["txstream"][..],
        &["txstream", "rely"],
        &["txstream", "relay", "--unknown"],
        &["txstream", "relay", "--db-password", "hunter2"],
        &["txstream", "slot"],
        &["txstream", "slot", "status", "--output", "xml"],
        &["txstream", "lag", "--wait", "30"],
        &["txstream", "completions", "cmd"],
        &["txstream", "lag", "--admin-url", "localhost:9090"],
        &["txstream", "breaker", "status", "--admin-url", "foo"],
        &["txstream", "breaker", "status", "--admin-url", "https://h:1"],
    ] {
        match parse(arguments) {
            Err(failure) => {
                assert_eq!(failure.code(), 64, "{arguments:?}");
                assert!(!failure.to_string().starts_with("error"), "{failure}");
            }
            other => panic!("{arguments:?}: {other:?}"),
        }
    }
}

#[test]
fn every_one_shot_command_that_asks_a_server_takes_a_time_to_wait_for_it() {
    for command in [
        "migrate up",
        "migrate down",
        "migrate status",
        "slot create",
        "slot status",
        "slot reset",
        "slot advance 0/1",
        "slot adopt",
        "slot drop",
        "outbox prune --older-than 7d",
        "dead-letter list",
        "dead-letter show --all",
        "dead-letter replay --all",
        "dead-letter discard --all",
        "lag",
        "doctor",
        "verify",
        "breaker status",
        "breaker open",
        "breaker close",
    ] {
        let arguments = format!("txstream {command} --wait 30s");
        assert!(matches!(parse(arguments.split(' ')), Ok(Parsed::Work(_))), "{arguments}");
    }
}

#[test]
fn exit_codes_are_those_of_the_contract() {
    for (failure, code) in [
        (Failure::Usage(vec!["a".into(), "b".into()]), 64),
        (Failure::halted("slot s is gone", "run txstream slot create"), 1),
        (Failure::Killed(15), 143),
        (Failure::Killed(2), 130),
    ] {
        assert_eq!(failure.code(), code);
    }
    let text = Failure::halted("slot s is gone", "run txstream slot create").to_string();
    assert_eq!(text, "slot s is gone\nwhat to do: run txstream slot create");
}

#[test]
fn the_man_page_has_every_command_and_flag() {
    let page = man::page(Cli::command(), command()).unwrap();
    for text in [
        "txstream relay",
        "txstream slot create",
        "txstream migrate down",
        "\\-\\-kafka\\-brokers",
        "KAFKA_BROKERS",
    ] {
        assert!(page.contains(text), "{text} is missing in {page}");
    }
    assert!(!page.contains("subcommand(s)"), "{page}");
}

#[test]
fn a_topic_narrows_a_key_and_nothing_else() {
    for act in ["replay", "discard", "show"] {
        let refused = |rest: &[&str]| {
            let arguments = [&["txstream", "dead-letter", act][..], rest].concat();
            command().try_get_matches_from(arguments).is_err()
        };
        assert!(!refused(&["--key", "k", "--topic", "t"]));
        for rest in [&["--topic", "t"][..], &["--all", "--topic", "t"], &["--id", "i", "--topic", "t"]] {
            assert!(refused(rest), "{act} {rest:?} would mean more than that topic's");
        }
    }
    let list = ["txstream", "dead-letter", "list", "--id", "i", "--topic", "t"];
    assert!(command().try_get_matches_from(list).is_err());
}
