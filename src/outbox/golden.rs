//! Messages that a real server wrote, in text and in binary mode: both must give the same records,
//! to the byte. `golden/rows.sql` says what the rows are and how the messages were taken.

use std::fmt::Write as _;

use bytes::Bytes;
use expect_test::expect_file;

use super::{MapError, Mapped, Mapper, Placement, Preset, Record, Settings, TableName};
use crate::pgoutput::{self, Message};

const TEXT: &str = include_str!("golden/text.hex");
const BINARY: &str = include_str!("golden/binary.hex");

/// One message from its line: hex, with `hh*n` for a byte that comes n times.
fn message(line: &str) -> Message {
    let mut bytes = Vec::new();
    let byte = |digits: &str| u8::from_str_radix(digits, 16).unwrap();
    for token in line.split_whitespace() {
        match token.split_once('*') {
            Some((digits, times)) => {
                bytes.resize(bytes.len() + times.parse::<usize>().unwrap(), byte(digits));
            }
            None => bytes.extend((0..token.len()).step_by(2).map(|at| byte(&token[at..at + 2]))),
        }
    }
    pgoutput::decode(bytes.into()).unwrap()
}

/// What the messages come to, table by table; every table is read with settings of its own.
fn records(lines: &str) -> String {
    let every = "b:header,s:header,i:header,o:header,c:header,raw:header,d:header,t:header,z:header";
    let mut out = String::new();
    for (tables, preset, placement) in [
        ("outbox", Preset::Debezium, "type:header:eventType,payload:header:copy"),
        ("placed", Preset::Debezium, every),
        ("\"My Schema\".\"Out.box\",plain", Preset::Debezium, ""),
        ("events", Preset::Txstream, "status:header"),
    ] {
        writeln!(out, "== {tables}").unwrap();
        let mut mapper = Mapper::new(Settings {
            tables: TableName::parse_list(tables).unwrap(),
            preset,
            placement: Placement::parse_list(placement).unwrap(),
            fixed_topic: None,
        });
        for line in lines.lines() {
            match message(line) {
                Message::Relation(relation) => mapper.relation(&relation).unwrap(),
                Message::Insert { relation_id, row } => show(&mut out, mapper.map(relation_id, &row)),
                _ => {}
            }
        }
        writeln!(out, "ignored trace contexts: {}\n", mapper.ignored_trace_contexts()).unwrap();
    }
    out
}

fn show(out: &mut String, mapped: Result<Mapped, MapError>) {
    match mapped {
        Ok(Mapped::Record(record)) => show_record(out, &record),
        Ok(Mapped::InvalidTopic { record, reason }) => {
            writeln!(out, "rejected: {reason}").unwrap();
            show_record(out, &record);
        }
        Ok(Mapped::Foreign) => {}
        Err(error) => {
            writeln!(out, "{error}").unwrap();
            let MapError::Unmappable(row) = error else { panic!("the stream was refused") };
            for (name, value) in &row.columns {
                let value = value.as_ref().map(|value| Bytes::copy_from_slice(value.as_bytes()));
                writeln!(out, "    {name}: {}", shown(value.as_ref())).unwrap();
            }
        }
    }
}

fn show_record(out: &mut String, record: &Record) {
    writeln!(out, "{} {}", record.topic, shown(Some(&record.event_type))).unwrap();
    writeln!(out, "    key: {}", shown(Some(&record.key))).unwrap();
    for header in &record.headers {
        writeln!(out, "    {}: {}", header.name.escape_debug(), shown(header.value.as_ref())).unwrap();
    }
    writeln!(out, "    value: {}", shown(record.payload.as_ref())).unwrap();
}

/// The bytes, readable; a long run of one byte is shortened as in the files.
fn shown(value: Option<&Bytes>) -> String {
    let Some(value) = value else { return "(none)".to_owned() };
    let mut out = String::new();
    for run in value.chunk_by(|a, b| a == b) {
        if run.len() > 100 {
            write!(out, "{}*{}", char::from(run[0]), run.len()).unwrap();
        } else {
            write!(out, "{}", run.escape_ascii()).unwrap();
        }
    }
    format!("[{out}]")
}

#[test]
fn text_and_binary_give_the_same_records() {
    let (text, binary) = (records(TEXT), records(BINARY));
    assert_eq!(text, binary);
    expect_file!["golden/records.txt"].assert_eq(&text);
}

#[test]
fn a_replay_gives_the_same_records() {
    assert_eq!(records(BINARY), records(BINARY));
}
