//! Authentication against a scripted server that really computes its part.

use bytes::BufMut;
use openssl::base64::{decode_block, encode_block};
use openssl::hash::MessageDigest;
use openssl::pkcs5::pbkdf2_hmac;
use openssl::pkey::PKey;
use openssl::sha::sha256;
use openssl::sign::Signer;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::*;
use crate::postgres::error::Class;

/// A server's side of SCRAM-SHA-256 (RFC 5802, 7677).
struct ScramServer {
    salted: [u8; 32],
    auth_message: String,
}

fn hmac(key: &[u8], data: &[u8]) -> Vec<u8> {
    let key = PKey::hmac(key).unwrap();
    let mut signer = Signer::new(MessageDigest::sha256(), &key).unwrap();
    signer.update(data).unwrap();
    signer.sign_to_vec().unwrap()
}

impl ScramServer {
    fn new(password: &str, salt: &[u8], iterations: usize, auth_message: String) -> Self {
        let mut salted = [0; 32];
        pbkdf2_hmac(password.as_bytes(), salt, iterations, MessageDigest::sha256(), &mut salted).unwrap();
        Self { salted, auth_message }
    }

    fn client_proof(&self) -> String {
        let client_key = hmac(&self.salted, b"Client Key");
        let signature = hmac(&sha256(&client_key), self.auth_message.as_bytes());
        let proof: Vec<u8> = client_key.iter().zip(&signature).map(|(a, b)| a ^ b).collect();
        encode_block(&proof)
    }

    fn signature(&self) -> String {
        encode_block(&hmac(&hmac(&self.salted, b"Server Key"), self.auth_message.as_bytes()))
    }
}

#[test]
fn the_scripted_server_computes_the_vector_of_rfc_7677() {
    let nonce = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
    let auth_message =
        format!("n=user,r=rOprNGfwEbeRWgbNEkqO,r={nonce},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,c=biws,r={nonce}");
    let salt = decode_block("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
    let server = ScramServer::new("pencil", &salt, 4096, auth_message);
    assert_eq!(server.client_proof(), "dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=");
    assert_eq!(server.signature(), "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
}

async fn send(stream: &mut DuplexStream, tag: u8, body: &[u8]) {
    let mut bytes = vec![tag];
    bytes.put_i32(i32::try_from(body.len()).unwrap() + 4);
    bytes.extend_from_slice(body);
    stream.write_all(&bytes).await.unwrap();
}

async fn ask(stream: &mut DuplexStream, kind: i32, data: &[u8]) {
    send(stream, b'R', &[&kind.to_be_bytes()[..], data].concat()).await;
}

async fn recv_password(stream: &mut DuplexStream) -> Option<Vec<u8>> {
    assert_eq!(stream.read_u8().await.ok()?, b'p');
    let mut body = vec![0; stream.read_u32().await.ok()? as usize - 4];
    stream.read_exact(&mut body).await.ok()?;
    Some(body)
}

/// What the scripted server does with SCRAM, and what it learned.
#[derive(Clone, Copy)]
struct Script {
    mechanisms: &'static [u8],
    password: &'static str,
    honest: bool,
}

/// Mechanism and GS2 header, with the channel-binding data behind it.
async fn serve_scram(mut stream: DuplexStream, script: Script) -> Option<(String, Vec<u8>)> {
    ask(&mut stream, 10, script.mechanisms).await;
    let initial = recv_password(&mut stream).await?;
    let end = initial.iter().position(|byte| *byte == 0).unwrap();
    let mechanism = String::from_utf8(initial[..end].to_vec()).unwrap();
    let client_first = String::from_utf8(initial[end + 5..].to_vec()).unwrap();
    let header_len = client_first.match_indices(',').nth(1).unwrap().0 + 1;
    let (header, bare) = client_first.split_at(header_len);
    let nonce = bare.split_once(",r=").unwrap().1;

    let server_first = format!("r={nonce}server,s={},i=4096", encode_block(b"salty"));
    ask(&mut stream, 11, server_first.as_bytes()).await;
    let client_final = String::from_utf8(recv_password(&mut stream).await?).unwrap();
    let (without_proof, proof) = client_final.split_once(",p=").unwrap();
    let bound = decode_block(without_proof.strip_prefix("c=").unwrap().split_once(',').unwrap().0).unwrap();
    assert!(bound.starts_with(header.as_bytes()), "the header is confirmed");
    let auth = format!("{bare},{server_first},{without_proof}");
    let scram = ScramServer::new(script.password, b"salty", 4096, auth);
    if proof == scram.client_proof() {
        let signature = if script.honest { scram.signature() } else { encode_block(&[0; 32]) };
        ask(&mut stream, 12, format!("v={signature}").as_bytes()).await;
        if script.honest {
            ask(&mut stream, 0, b"").await;
        }
    } else {
        send(
            &mut stream,
            b'E',
            b"SFATAL\0VFATAL\0C28P01\0Mpassword authentication failed for user \"u\"\0\0",
        )
        .await;
    }
    Some((mechanism, bound))
}

const HASH: &[u8] = b"hash of the certificate";
const BOTH: &[u8] = b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0";
const PLAIN: &[u8] = b"SCRAM-SHA-256\0\0";
const GOOD: Script = Script { mechanisms: PLAIN, password: "pencil", honest: true };

async fn log_in<F: Future>(
    binding: ChannelBinding,
    end_point: Option<&[u8]>,
    password: Option<&str>,
    server: impl FnOnce(DuplexStream) -> F,
) -> (Result<(), PgError>, F::Output) {
    // One byte at a time: every message is cut everywhere.
    let (ours, theirs) = duplex(1);
    let password = password.map(Secret::new);
    let login = Login {
        user: "u",
        password: password.as_ref(),
        channel_binding: binding,
        end_point: end_point.map(<[u8]>::to_vec),
        encrypted: end_point.is_some(),
    };
    let client = async {
        let mut channel = Channel::new(ours);
        authenticate(&mut channel, &login, "log in").await
    };
    tokio::join!(client, server(theirs))
}

#[tokio::test]
async fn scram_with_and_without_channel_binding() {
    use ChannelBinding::{Disable, Prefer, Require};
    let plus = [b"p=tls-server-end-point,,", HASH].concat();
    for (binding, end_point, mechanisms, mechanism, bound) in [
        (Prefer, None, PLAIN, "SCRAM-SHA-256", &b"n,,"[..]),
        (Prefer, None, BOTH, "SCRAM-SHA-256", b"n,,"),
        (Prefer, Some(HASH), BOTH, "SCRAM-SHA-256-PLUS", &*plus),
        (Require, Some(HASH), BOTH, "SCRAM-SHA-256-PLUS", &*plus),
        // We could have, nobody offered it: said, so that the server can tell if its offer was removed.
        (Prefer, Some(HASH), PLAIN, "SCRAM-SHA-256", b"y,,"),
        (Disable, Some(HASH), BOTH, "SCRAM-SHA-256", b"n,,"),
    ] {
        let script = Script { mechanisms, ..GOOD };
        let (result, seen) =
            log_in(binding, end_point, Some("pencil"), |stream| serve_scram(stream, script)).await;
        result.map_err(|error| error.report()).unwrap();
        assert_eq!(seen, Some((mechanism.to_owned(), bound.to_vec())));
    }
}

#[tokio::test]
async fn required_channel_binding_is_never_done_without() {
    for (end_point, why) in [(Some(HASH), "does not offer it"), (None, "has no TLS")] {
        let (result, seen) =
            log_in(ChannelBinding::Require, end_point, Some("pencil"), |stream| serve_scram(stream, GOOD))
                .await;
        assert!(result.unwrap_err().report().contains(why));
        assert_eq!(seen, None, "nothing was sent");
    }
    for kind in [0, 3, 5] {
        let (result, sent) =
            log_in(ChannelBinding::Require, Some(HASH), Some("pencil"), async |mut stream| {
                ask(&mut stream, kind, if kind == 5 { b"salt" } else { b"" }).await;
                recv_password(&mut stream).await
            })
            .await;
        assert!(result.unwrap_err().report().contains("channel_binding=require"));
        assert_eq!(sent, None, "the password was sent");
    }
}

#[tokio::test]
async fn a_wrong_password_and_a_false_server_are_told_apart() {
    let wrong = Script { password: "other", ..GOOD };
    let (result, _) =
        log_in(ChannelBinding::Prefer, None, Some("pencil"), |stream| serve_scram(stream, wrong)).await;
    let error = result.unwrap_err();
    assert_eq!((error.sqlstate(), error.class()), (Some("28P01"), Class::Halt));
    assert!(!error.report().contains("pencil"));

    let liar = Script { honest: false, ..GOOD };
    let (result, _) =
        log_in(ChannelBinding::Prefer, None, Some("pencil"), |stream| serve_scram(stream, liar)).await;
    assert!(result.unwrap_err().report().contains("cannot prove that it knows the password"));
}

#[tokio::test]
async fn md5_clear_text_and_trust() {
    let (result, sent) = log_in(ChannelBinding::Prefer, None, Some("pencil"), async |mut stream| {
        ask(&mut stream, 5, &[1, 2, 3, 4]).await;
        let sent = recv_password(&mut stream).await;
        ask(&mut stream, 0, b"").await;
        sent
    })
    .await;
    result.unwrap();
    // md5(md5("pencil" "u") salt), from `md5sum`.
    let sent = String::from_utf8(sent.unwrap()).unwrap();
    assert_eq!(sent, format!("{}\0", md5_hash(b"u", b"pencil", [1, 2, 3, 4])));
    assert!(sent.starts_with("md5") && sent.len() == 36);

    let (result, sent) = log_in(ChannelBinding::Prefer, None, Some("pencil"), async |mut stream| {
        ask(&mut stream, 3, b"").await;
        let sent = recv_password(&mut stream).await;
        ask(&mut stream, 0, b"").await;
        sent
    })
    .await;
    result.unwrap();
    assert_eq!(sent.as_deref(), Some(&b"pencil\0"[..]));

    let (result, ()) =
        log_in(ChannelBinding::Prefer, None, None, async |mut stream| ask(&mut stream, 0, b"").await).await;
    result.unwrap();
}

#[tokio::test]
async fn a_missing_password_is_said_for_every_method() {
    for (kind, data) in [(3, &b""[..]), (5, &[0; 4]), (10, PLAIN)] {
        let (result, _) = log_in(ChannelBinding::Prefer, None, None, async |mut stream| {
            ask(&mut stream, kind, data).await;
            recv_password(&mut stream).await
        })
        .await;
        let error = result.unwrap_err();
        assert!(error.report().contains("none was given"), "{}", error.report());
        assert_eq!(error.class(), Class::Halt);
    }
}

#[tokio::test]
async fn methods_that_are_not_supported_are_named() {
    for (kind, data, name) in [
        (2, &b""[..], "Kerberos"),
        (7, b"", "GSSAPI"),
        (9, b"", "SSPI"),
        (10, b"OAUTHBEARER\0\0", "OAUTHBEARER"),
    ] {
        let (result, ()) = log_in(ChannelBinding::Prefer, None, Some("p"), async |mut stream| {
            ask(&mut stream, kind, data).await
        })
        .await;
        let error = result.unwrap_err();
        assert!(error.report().contains(name), "{}", error.report());
        assert_eq!(error.class(), Class::Halt);
    }
}

#[tokio::test]
async fn a_server_that_talks_nonsense_or_hangs_up_is_an_error() {
    for bytes in [
        &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..],
        b"",
        b"Z\0\0\0\x05I",
        b"R\0\0\0\x08\0\0\0\x63",
        b"W\0\0\0\x07\0\0\0",
    ] {
        let (result, ()) = log_in(ChannelBinding::Prefer, None, Some("p"), async |mut stream| {
            let _ = stream.write_all(bytes).await;
        })
        .await;
        let error = result.unwrap_err();
        assert!(matches!(error, PgError::Closed { .. } | PgError::Protocol { .. }), "{bytes:?}: {error:?}");
    }
}
