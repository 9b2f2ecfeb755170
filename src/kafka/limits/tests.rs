use std::time::Duration;

use bytes::Bytes;
use rdkafka::admin::{ConfigEntry, ConfigSource, OwnedResourceSpecifier};
use rdkafka::mocking::MockCluster;

use super::*;
use crate::outbox::Header;

fn record(key: usize, payload: Option<usize>, headers: &[(usize, Option<usize>)]) -> Record {
    let bytes = |len| Bytes::from(vec![b'x'; len]);
    let header = |(name, value): &(usize, Option<usize>)| Header {
        name: "n".repeat(*name).into(),
        value: value.map(bytes),
    };
    Record {
        topic: "orders".into(),
        key: bytes(key),
        payload: payload.map(bytes),
        headers: headers.iter().map(header).collect(),
        event_type: Bytes::new(),
    }
}

/// The record batch written out by Kafka's protocol guide, independent of the arithmetic above.
fn encoded(record: &Record) -> Vec<u8> {
    fn varint(out: &mut Vec<u8>, value: i64) {
        let mut zigzag = (value << 1 ^ value >> 63).cast_unsigned();
        while zigzag >= 0x80 {
            out.push(zigzag.to_le_bytes()[0] | 0x80);
            zigzag >>= 7;
        }
        out.push(zigzag.to_le_bytes()[0]);
    }
    fn bytes(out: &mut Vec<u8>, value: Option<&[u8]>) {
        varint(out, value.map_or(-1, |value| i64::try_from(value.len()).unwrap()));
        out.extend(value.unwrap_or_default());
    }
    let mut body = vec![0];
    varint(&mut body, 0);
    varint(&mut body, 0);
    bytes(&mut body, Some(&record.key));
    bytes(&mut body, record.payload.as_deref());
    varint(&mut body, i64::try_from(record.headers.len()).unwrap());
    for header in &record.headers {
        bytes(&mut body, Some(header.name.as_bytes()));
        bytes(&mut body, header.value.as_deref());
    }
    let mut batch = vec![0; 8 + 4 + 4 + 1 + 4 + 2 + 4 + 8 + 8 + 8 + 2 + 4 + 4];
    varint(&mut batch, i64::try_from(body.len()).unwrap());
    batch.extend(body);
    batch
}

#[test]
fn the_size_of_a_record_is_that_of_its_batch_on_the_wire() {
    let lengths = [0, 1, 63, 64, 127, 8_191, 8_192, 1_048_576];
    for key in lengths {
        for payload in lengths.into_iter().map(Some).chain([None]) {
            for headers in [&[][..], &[(2, Some(36))], &[(64, None), (0, Some(0)), (1, Some(8_192))]] {
                let record = record(key, payload, headers);
                assert_eq!(record_size(&record), encoded(&record).len(), "{key} {payload:?} {headers:?}");
            }
        }
    }
    let many: Vec<_> = (0..70).map(|_| (1, Some(1))).collect();
    let record = record(1, Some(1), &many);
    assert_eq!(record_size(&record), encoded(&record).len());
}

#[test]
fn a_record_at_the_limit_passes_and_one_byte_more_is_refused() {
    let overhead = record_size(&record(10, Some(100_000), &[(2, Some(36))])) - 100_000;
    let limit = 100_000;
    let at = |size: usize| check(&record(10, Some(size - overhead), &[(2, Some(36))]), limit);
    assert_eq!(at(100_000), Ok(()));
    let (rejection, text) = at(100_001).unwrap_err();
    assert_eq!(rejection, Rejection::TooLarge);
    assert!(text.contains("100001") && text.contains("100000") && text.contains("orders"), "{text}");
}

#[test]
fn a_name_that_kafka_does_not_take_is_refused() {
    let named = |name: &str| check(&Record { topic: name.into(), ..record(1, Some(1), &[]) }, 1_000);
    for good in ["a", "outbox.event.Order_1-x", &"x".repeat(249)] {
        assert_eq!(named(good), Ok(()));
    }
    for bad in ["", ".", "..", "a b", "ä", "a/b", "a\0", &"x".repeat(250)] {
        assert!(matches!(named(bad), Err((Rejection::Invalid, _))), "{bad:?}");
    }
    let mut nul = record(1, Some(1), &[(1, None)]);
    nul.headers[0].name = "a\0b".into();
    assert!(matches!(check(&nul, 1_000), Err((Rejection::Invalid, _))));
}

fn described(name: &str, value: Option<&str>) -> Result<ConfigResource, RDKafkaErrorCode> {
    let entry = ConfigEntry {
        name: name.into(),
        value: value.map(str::to_owned),
        source: ConfigSource::DynamicTopic,
        is_read_only: false,
        is_default: false,
        is_sensitive: false,
    };
    Ok(ConfigResource { specifier: OwnedResourceSpecifier::Topic("orders".into()), entries: vec![entry] })
}

#[test]
fn each_answer_of_a_broker_has_its_meaning() {
    use RDKafkaErrorCode as Code;
    let answer = |result| answer(result, "max.message.bytes");
    assert_eq!(answer(described("max.message.bytes", Some("2000000"))), Ok(Some(2_000_000)));
    assert_eq!(answer(described("max.message.bytes", None)), Ok(None));
    assert_eq!(answer(described("message.max.bytes", Some("1"))), Ok(None));
    assert_eq!(answer(Err(Code::TopicAuthorizationFailed)), Ok(None));
    assert_eq!(answer(Err(Code::ClusterAuthorizationFailed)), Ok(None));
    assert_eq!(answer(Err(Code::UnknownTopicOrPartition)), Ok(None));
    for code in [Code::OperationTimedOut, Code::BrokerTransportFailure, Code::NotController] {
        assert!(answer(Err(code)).is_err(), "{code:?}");
    }
}

#[test]
fn a_topic_without_description_is_missing_only_if_its_metadata_say_so() {
    use RDKafkaRespErr as Native;
    assert_eq!(standing(None), Ok(Standing::There));
    assert_eq!(standing(Some(Native::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART)), Ok(Standing::Missing));
    assert_eq!(standing(Some(Native::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED)), Ok(Standing::There));
    assert!(standing(Some(Native::RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE)).is_err());
}

#[test]
fn a_limit_of_a_topic_itself_holds_until_it_names_another_and_one_of_brokers_until_they_do() {
    use TopicLimit::{Hidden, Missing, Own};
    for (before, answer, after) in [
        (None, Missing(Some(5_000_000)), Missing(Some(5_000_000))),
        (Some(Missing(Some(5_000_000))), Own(300_000), Own(300_000)),
        (Some(Own(300_000)), Own(400_000), Own(400_000)),
        (Some(Own(300_000)), Missing(Some(5_000_000)), Own(300_000)),
        (Some(Own(300_000)), Missing(None), Own(300_000)),
        (Some(Own(300_000)), Hidden(Some(5_000_000)), Own(300_000)),
        (Some(Missing(Some(5_000_000))), Missing(Some(6_000_000)), Missing(Some(6_000_000))),
        (Some(Missing(Some(5_000_000))), Missing(None), Missing(Some(5_000_000))),
        (Some(Missing(Some(5_000_000))), Hidden(None), Hidden(Some(5_000_000))),
    ] {
        assert_eq!(answer.after(before), after, "{before:?}, then {answer:?}");
    }
    assert_eq!(Missing(Some(5_000_000)).bytes(), 5_000_000);
    assert_eq!([Missing(None).bytes(), Hidden(None).bytes()], [DEFAULT_TOPIC_LIMIT; 2]);
}

fn ask(brokers: String, timeout: Duration) -> Settings {
    Settings { brokers, client_id: "txstream".into(), request_timeout: timeout, properties: Vec::new() }
}

#[tokio::test]
async fn brokers_that_cannot_be_reached_give_no_answer_within_the_timeout() {
    let cluster = MockCluster::new(1).unwrap();
    cluster.broker_down(-1).unwrap();
    let limits = Limits::new(&ask(cluster.bootstrap_servers(), Duration::from_millis(300))).unwrap();
    assert!(limits.topic_limit("orders").await.is_err());
    tokio::task::spawn_blocking(|| limits.close()).await.unwrap();
}

#[test]
fn each_question_goes_to_another_broker() {
    let limits = Limits::new(&ask("localhost:1".to_owned(), Duration::from_secs(1))).unwrap();
    let mut asked: Vec<_> = (0..3).map(|_| limits.whom(&[4, 7, 9]).unwrap()).collect();
    asked.sort_unstable();
    assert_eq!(asked, [4, 7, 9]);
    assert_eq!(limits.whom(&[]), None);
}
