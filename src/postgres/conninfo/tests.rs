use std::fs;
use std::os::unix::fs::PermissionsExt;

use proptest::prelude::*;

use super::*;

fn around() -> Surroundings {
    Surroundings { user: Some("os_user".into()), home: None, passfile: None }
}

fn parse(text: &str) -> ConnInfo {
    ConnInfo::parse_within(text, &around()).unwrap_or_else(|problems| panic!("{text}: {problems:?}"))
}

fn problems(text: &str) -> String {
    match ConnInfo::parse_within(text, &around()) {
        Ok(info) => panic!("{text} was accepted: {info:?}"),
        Err(problems) => problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"),
    }
}

/// Host, port, user, password, database.
fn parts(text: &str) -> (String, u16, String, Option<String>, String) {
    let info = parse(text);
    (info.host, info.port, info.user, info.password.map(|secret| secret.expose().to_owned()), info.dbname)
}

fn is(
    host: &str,
    port: u16,
    user: &str,
    password: Option<&str>,
    dbname: &str,
) -> (String, u16, String, Option<String>, String) {
    (host.into(), port, user.into(), password.map(str::to_owned), dbname.into())
}

#[test]
fn uris_mean_what_libpq_says() {
    for (text, expected) in [
        ("postgresql://u:p@h:1/d", is("h", 1, "u", Some("p"), "d")),
        ("postgres://u@h", is("h", 5432, "u", None, "u")),
        ("postgresql://u%40x:p%2F%3A%25@h/d%20b", is("h", 5432, "u@x", Some("p/:%"), "d b")),
        ("postgresql://h/d", is("h", 5432, "os_user", None, "d")),
        ("postgresql://u@[2001:db8::1]:7/d", is("2001:db8::1", 7, "u", None, "d")),
        ("postgresql://u@%2Fvar%2Frun%2Fpostgresql:7/d", is("/var/run/postgresql", 7, "u", None, "d")),
        ("postgresql:///d?host=/var/run/postgresql&user=u", is("/var/run/postgresql", 5432, "u", None, "d")),
        ("postgresql:///d?host=@abstract&user=u", is("@abstract", 5432, "u", None, "d")),
        ("postgresql://u@h/d?port=9&password=x%26y", is("h", 9, "u", Some("x&y"), "d")),
        ("postgresql://u:@h/d", is("h", 5432, "u", None, "d")),
        ("postgresql://u:a?b#c@h/d", is("h", 5432, "u", Some("a?b#c"), "d")),
    ] {
        assert_eq!(parts(text), expected, "{text}");
    }
}

#[test]
fn keyword_strings_mean_what_libpq_says() {
    for (text, expected) in [
        ("host=h port=1 user=u password=p dbname=d", is("h", 1, "u", Some("p"), "d")),
        ("  host = h\n\tuser = 'u' dbname='a b' ", is("h", 5432, "u", None, "a b")),
        (r"host=h user=u password='it\'s \\ = x' dbname=d", is("h", 5432, "u", Some(r"it's \ = x"), "d")),
        (r"host=h user=u password=a\ b\'c dbname=d", is("h", 5432, "u", Some("a b'c"), "d")),
        ("host=h user=u password=a=b@c://d dbname=d", is("h", 5432, "u", Some("a=b@c://d"), "d")),
        ("host=first host=h user=u dbname=''", is("h", 5432, "u", None, "u")),
        ("host=/tmp user=u", is("/tmp", 5432, "u", None, "u")),
    ] {
        assert_eq!(parts(text), expected, "{text}");
    }
}

#[test]
fn several_hosts_are_tried_in_their_order() {
    let info = parse("postgresql://u@a,b:2,[::1]:3/d?target_session_attrs=read-write");
    let list: Vec<_> = info.endpoints().map(|endpoint| endpoint.describe()).collect();
    assert_eq!(list, ["a:5432", "b:2", "[::1]:3"]);
    assert_eq!(info.target_session, TargetSession::ReadWrite);
    let info = parse("host=a,b hostaddr=10.0.0.1,10.0.0.2 port=7 user=u");
    let list: Vec<_> =
        info.endpoints().map(|endpoint| (endpoint.hostaddr.unwrap().to_string(), endpoint.port)).collect();
    assert_eq!(list, [("10.0.0.1".into(), 7), ("10.0.0.2".into(), 7)]);
    assert!(problems("host=a,b,c port=1,2 user=u").contains("port must name one port"));
    assert!(problems("host=a,b hostaddr=10.0.0.1 user=u").contains("equally many"));
}

#[test]
fn tls_keys_are_honoured() {
    let info = parse(
        "host=h user=u sslmode=verify-full sslrootcert=/ca sslcert=/c sslkey=/k sslpassword=s sslcrl=/crl sslcrldir=/dir \
         sslsni=0 ssl_min_protocol_version=TLSv1.3 ssl_max_protocol_version=TLSv1.3 channel_binding=require \
         sslnegotiation=direct sslcertmode=disable sslcompression=0",
    );
    assert_eq!(info.ssl_mode, SslMode::VerifyFull);
    assert_eq!(info.tls.root_cert, Some(RootCert::File("/ca".into())));
    assert_eq!((info.tls.cert, info.tls.key), (Some("/c".into()), Some("/k".into())));
    assert_eq!(info.tls.key_password.unwrap().expose(), "s");
    assert_eq!((info.tls.crl, info.tls.crl_dir), (Some("/crl".into()), Some("/dir".into())));
    assert!(!info.tls.sni && info.tls.direct && !info.tls.send_cert);
    assert_eq!((info.tls.min_version, info.tls.max_version), (TlsVersion::V1_3, Some(TlsVersion::V1_3)));
    assert_eq!(info.channel_binding, ChannelBinding::Require);
    assert_eq!(parse("postgresql://u@h?ssl=true").ssl_mode, SslMode::Require);
    assert_eq!(parse("host=h user=u sslrootcert=system").ssl_mode, SslMode::VerifyFull);
    assert_eq!(parse("host=h user=u").ssl_mode, SslMode::Prefer);
}

#[test]
fn other_keys_are_honoured() {
    let info = parse(
        "host=h user=u connect_timeout=3 keepalives=1 keepalives_idle=4 keepalives_interval=5 keepalives_count=6 \
         tcp_user_timeout=7 application_name=a fallback_application_name=b options='-c a=b' client_encoding=utf8 \
         gssencmode=prefer passfile=/pw load_balance_hosts=disable",
    );
    assert_eq!(info.connect_timeout, Duration::from_secs(3));
    assert_eq!(
        info.tcp,
        TcpSettings {
            keepalives: true,
            keepalives_idle: Some(Duration::from_secs(4)),
            keepalives_interval: Some(Duration::from_secs(5)),
            keepalives_count: Some(6),
            user_timeout: Some(Duration::from_millis(7)),
        }
    );
    assert_eq!(info.application_name.as_deref(), Some("a"));
    assert!(info.options_name("a") && info.passfile == Some("/pw".into()));
    assert_eq!(parse("host=h user=u fallback_application_name=b").application_name.as_deref(), Some("b"));
    assert!(!parse("host=h user=u keepalives=0").tcp.keepalives);
}

/// Every key libpq 18 knows (PQconndefaults), so that none is unknown here.
const LIBPQ_KEYS: &str = "service servicefile user password passfile channel_binding connect_timeout dbname host hostaddr \
    port client_encoding options application_name fallback_application_name keepalives keepalives_idle \
    keepalives_interval keepalives_count tcp_user_timeout sslmode sslnegotiation sslcompression sslcert sslkey \
    sslcertmode sslpassword sslrootcert sslcrl sslcrldir sslsni requirepeer require_auth min_protocol_version \
    max_protocol_version ssl_min_protocol_version ssl_max_protocol_version gssencmode krbsrvname gsslib \
    gssdelegation replication target_session_attrs load_balance_hosts scram_client_key scram_server_key \
    oauth_issuer oauth_client_id oauth_client_secret oauth_scope sslkeylogfile";

#[test]
fn no_key_of_libpq_is_unknown_or_ignored() {
    let defaults = format!("{:?}", parse("host=h user=u"));
    for key in LIBPQ_KEYS.split_whitespace() {
        // No key has this value by default, and only texts, lists of hosts and paths accept it.
        match ConnInfo::parse_within(&format!("host=h user=u {key}=zz7"), &around()) {
            Ok(info) if key == "password" || key == "sslpassword" => {
                assert!(format!("{info:?}") != defaults, "{key} is ignored");
            }
            Ok(info) => assert!(format!("{info:?}").contains("zz7"), "{key} is ignored"),
            Err(problems) => {
                let text = problems.iter().map(ToString::to_string).collect::<String>();
                assert!(text.contains(key), "{key} is not named: {text}");
                assert!(!text.contains("is not a key"), "{text}");
            }
        }
    }
}

#[test]
fn what_cannot_be_honoured_is_refused_by_name() {
    for (keys, said) in [
        ("sslmode=allow", "sslmode=allow is refused"),
        ("sslmode=on", "sslmode must be"),
        ("sslrootcert=system sslmode=require", "needs sslmode=verify-full"),
        ("sslnegotiation=direct", "needs sslmode=require"),
        ("sslcert=/c", "sslcert and sslkey"),
        ("ssl_max_protocol_version=TLSv1.1", "below ssl_min_protocol_version"),
        ("gssencmode=require", "gssencmode can only be disable or prefer"),
        ("target_session_attrs=standby", "target_session_attrs must be any or read-write or primary"),
        ("load_balance_hosts=random", "load_balance_hosts can only be"),
        ("service=x", "service is refused"),
        ("replication=database", "replication is refused"),
        ("client_encoding=latin1", "client_encoding can only be"),
        ("connect_timeout=0", "connect_timeout must be"),
        ("port=0", "port must be"),
        ("port=70000", "port must be"),
        ("hostaddr=name", "hostaddr must be an IP address"),
        ("sslmod=require", "sslmod is not a key"),
        ("oops", "setting 3 of the connection string has no `=`"),
        ("dbname='open", "no closing quote"),
    ] {
        let said_really = problems(&format!("host=h user=u {keys}"));
        assert!(said_really.contains(said), "{keys}: {said_really}");
    }
    for (uri, said) in [
        ("mysql://u@h/d", "starts with postgresql://"),
        ("postgresql://u:%zz@h/d", "password in the connection URI is not well percent-encoded"),
        ("postgresql://u:%00@h/d", "password in the connection URI"),
        ("postgresql://u:p@w@h/d", "the host in the connection URI contains an `@`"),
        ("postgresql://u:1/p@h/d", "the dbname in the connection URI contains an `@`"),
        ("postgresql://u@[::1/d", "no closing `]`"),
        ("postgresql://u@[::1]x/d", "after the `]`"),
        ("postgresql://u@h/d?sslmode", "parameter 1 of the connection URI"),
        ("postgresql://u@h/d?sslmode=a=b", "parameter 1 of the connection URI"),
    ] {
        assert!(problems(uri).contains(said), "{uri}: {}", problems(uri));
    }
    let none = ConnInfo::parse_within("host=h", &Surroundings::default()).unwrap_err();
    assert_eq!(none[0].to_string(), "the connection string names no user");
}

#[test]
fn all_problems_are_reported_at_once() {
    let text = problems("host=h user=u port=x sslmode=allow service=s nonsense_key=1 connect_timeout=soon");
    assert_eq!(text.lines().count(), 5, "{text}");
    let text = problems("postgresql://u:%zz@h:x/d?bad&sslmode=allow");
    assert_eq!(text.lines().count(), 4, "{text}");
}

#[test]
fn single_values_and_ssl_defaults() {
    let info = ConnInfo::from_parts("h", 1, "d", "u", Some(Secret::new("p")));
    assert!(!info.names_ssl());
    let info = info.with_ssl(Some(SslMode::VerifyCa), Some("/ca"), None, None).unwrap();
    assert_eq!((info.ssl_mode, info.tls.root_cert), (SslMode::VerifyCa, Some(RootCert::File("/ca".into()))));
    let plain = ConnInfo::from_parts("h", 1, "d", "u", None);
    assert_eq!(
        plain.clone().with_ssl(None, Some("system"), None, None).unwrap().ssl_mode,
        SslMode::VerifyFull
    );
    assert_eq!(plain.clone().with_ssl(None, None, None, None).unwrap().ssl_mode, SslMode::Prefer);
    assert!(
        plain.with_ssl(Some(SslMode::Prefer), Some("system"), Some("/c"), None).is_err_and(|e| e.len() == 2)
    );
    assert!(parse("host=h user=u sslrootcert=/ca").names_ssl());
    assert!(!parse("host=h user=u dbname=sslmode").names_ssl());
}

#[test]
fn what_people_see_holds_no_secret() {
    let info = parse("postgresql://u:topsecret@h1,h2:2/d?sslmode=require&sslpassword=topsecret");
    assert_eq!(info.redacted(), "postgresql://u@h1:5432,h2:2/d?sslmode=require");
    assert!(!format!("{info:?}").contains("topsecret"));
    assert_eq!(parse(&info.redacted()).dbname, "d");
    let socket = parse("host=/var/run/postgresql user='a b' dbname=d");
    assert_eq!(socket.redacted(), "postgresql://a%20b@%2Fvar%2Frun%2Fpostgresql:5432/d?sslmode=prefer");
}

#[test]
fn a_password_that_falls_apart_is_not_shown_as_a_key() {
    let text = problems("postgresql://u:a/b?TopSecret=x@h/d");
    assert!(!text.contains("TopSecret") && !text.contains("x@h"), "{text}");
    assert!(text.contains("%2F"), "it says how to write such a password: {text}");
}

#[test]
fn the_password_file_is_read_as_libpq_reads_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pgpass");
    let write = |mode| {
        let text = "# comment\n\
                    h:5432:d:other:wrong\n\
                    h:5432:d:u:se\\:cr\\\\et:with:colons\n\
                    localhost:*:*:u:local\n\
                    *:*:*:star:\\*\n";
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    };
    write(0o600);
    let ask = |text: &str| {
        let around = Surroundings { passfile: Some(path.clone()), ..around() };
        let info = ConnInfo::parse_within(text, &around).unwrap();
        let endpoint = info.endpoints().next().unwrap();
        info.password_for(&endpoint).map(|secret| secret.expose().to_owned())
    };
    assert_eq!(ask("host=h user=u dbname=d").as_deref(), Some(r"se:cr\et:with:colons"));
    assert_eq!(ask("host=h user=u dbname=d password=given").as_deref(), Some("given"));
    assert_eq!(ask("host=h user=u dbname=d port=1"), None);
    assert_eq!(ask("host=/tmp user=u").as_deref(), Some("local"), "a default socket directory is localhost");
    assert_eq!(ask("host=/elsewhere user=u"), None);
    assert_eq!(ask("host=anything user=star").as_deref(), Some("*"));
    write(0o644);
    assert_eq!(ask("host=h user=u dbname=d"), None, "others may read it");
    fs::remove_file(&path).unwrap();
    assert_eq!(ask("host=h user=u dbname=d"), None);
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in "\\PC*", scheme in prop::sample::select(vec!["", "postgresql://", "postgres://u:p@"])) {
        let _ = ConnInfo::parse_within(&format!("{scheme}{text}"), &around());
    }

    #[test]
    fn no_problem_shows_a_value(secret in "[A-Z0-9%@/:?#=&' ,\\[\\]]{12,24}") {
        for text in [format!("postgresql://u:{secret}@h/d"), format!("host=h user=u password={secret}")] {
            if let Err(problems) = ConnInfo::parse_within(&text, &around()) {
                for piece in secret.split(|c: char| !c.is_ascii_alphanumeric()).filter(|piece| piece.len() > 5) {
                    prop_assert!(problems.iter().all(|problem| !problem.0.contains(piece)), "{problems:?}");
                }
            }
        }
    }

    #[test]
    fn an_encoded_uri_gives_back_its_parts(user in "\\PC{1,12}", password in "\\PC{1,12}", dbname in "\\PC{1,12}") {
        let encode = syntax::percent_encode;
        let text = format!("postgresql://{}:{}@h/{}", encode(&user), encode(&password), encode(&dbname));
        prop_assert_eq!(parts(&text), is("h", 5432, &user, Some(&password), &dbname));
    }
}
