//! Against a server that the test plays.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use harness::{Authority, TlsFront, Validity, replace};
use serde_json::{Value, json};
use task_events::tls::{TlsFiles, TlsVariables};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::time::sleep;

use super::super::jwt::{Issuer, Refusal};
use super::*;

const KEYS: &str = include_str!("../../../tests/golden/jwt/jwks.json");
const TOKENS: &str = include_str!("../../../tests/golden/jwt/tokens.json");
/// What is waited for comes well before this, or never.
const SOON: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(20);
/// As fast as the test waits.
const FAST: Times = Times { interval: SHORT, max_age: NEVER, learn: SHORT, retry: (SHORT, SHORT) };
const NEVER: Duration = Duration::from_secs(3_600);
/// As an issuer on another continent answers: many times what lies between two looks of a test.
const LATE: Duration = Duration::from_millis(500);

#[derive(Debug, Clone)]
enum Answer {
    Set(String),
    /// A set, [`LATE`] after the request.
    Late(String),
    Status(&'static str),
    Silence,
    Bytes(&'static [u8]),
}

/// An issuer's server of keys.
struct Server {
    address: SocketAddr,
    answer: Arc<Mutex<Answer>>,
    asked: Arc<AtomicUsize>,
}

impl Server {
    async fn start(answer: Answer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (answer, asked) = (Arc::new(Mutex::new(answer)), Arc::new(AtomicUsize::new(0)));
        let (shown, count) = (Arc::clone(&answer), Arc::clone(&asked));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (shown, count) = (Arc::clone(&shown), Arc::clone(&count));
                tokio::spawn(async move {
                    let mut request = Vec::new();
                    while !request.ends_with(b"\r\n\r\n") {
                        request.push(stream.read_u8().await?);
                    }
                    let request = String::from_utf8(request).unwrap();
                    assert!(request.starts_with("GET /keys?x=y HTTP/1.1\r\n"), "{request}");
                    count.fetch_add(1, Ordering::SeqCst);
                    let answer = shown.lock().unwrap().clone();
                    if matches!(answer, Answer::Late(_)) {
                        sleep(LATE).await;
                    }
                    let bytes = match answer {
                        Answer::Set(set) | Answer::Late(set) => {
                            format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{set}", set.len())
                                .into_bytes()
                        }
                        Answer::Status(status) => {
                            format!("HTTP/1.1 {status}\r\nlocation: /\r\ncontent-length: 0\r\n\r\n")
                                .into_bytes()
                        }
                        Answer::Silence => {
                            // Until the client gives up.
                            let _ = stream.read_u8().await;
                            return Ok(());
                        }
                        Answer::Bytes(bytes) => bytes.to_vec(),
                    };
                    stream.write_all(&bytes).await?;
                    stream.shutdown().await
                });
            }
        });
        Self { address, answer, asked }
    }

    fn answer(&self, answer: Answer) {
        *self.answer.lock().unwrap() = answer;
    }

    fn url(&self) -> Url {
        format!("http://{}/keys?x=y", self.address).parse().unwrap()
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let waiting = async {
        while !holds() {
            sleep(SHORT).await;
        }
    };
    timeout(SOON, waiting).await.unwrap_or_else(|_| panic!("not seen: {what}"));
}

fn without(kid: &str) -> String {
    let set: Value = serde_json::from_str(KEYS).unwrap();
    let keys: Vec<_> = set["keys"].as_array().unwrap().iter().filter(|key| key["kid"] != kid).collect();
    json!({ "keys": keys }).to_string()
}

fn taken(keys: &KeyUrl, token: &str) -> Result<(), Refusal> {
    let tokens: Value = serde_json::from_str(TOKENS).unwrap();
    let issuer = Issuer { issuer: "https://issuer.example.org".to_owned(), audience: "task-api".to_owned() };
    let current = keys.current().expect("a set");
    current.caller(tokens[token].as_str().unwrap(), &issuer).map(drop)
}

fn said(keys: &KeyUrl) -> String {
    keys.shared.failure.lock().unwrap().clone().unwrap_or_default()
}

#[tokio::test]
async fn keys_are_rotated_as_the_issuer_does_it() {
    let server = Server::start(Answer::Set(without("ec"))).await;
    // Only what is not known has it fetch again.
    let keys = KeyUrl::fetching(server.url(), None, Times { interval: NEVER, ..FAST }).unwrap();
    until("the first set", || keys.current().is_some()).await;
    assert_eq!(taken(&keys, "good-es256"), Err(Refusal::Key));
    assert_eq!(taken(&keys, "good-rs256"), Ok(()));
    // The new key is there before tokens are signed with it; the old one goes later.
    server.answer(Answer::Set(KEYS.to_owned()));
    let learning = async {
        while taken(&keys, "good-es256").is_err() {
            if !keys.learn().await {
                sleep(SHORT).await;
            }
        }
    };
    timeout(SOON, learning).await.expect("the new key is learnt");
    assert_eq!(taken(&keys, "good-rs256"), Ok(()));
    server.answer(Answer::Set(without("rsa")));
    let withdrawn = async {
        while taken(&keys, "good-rs256").is_ok() {
            let _ = keys.learn().await;
            sleep(SHORT).await;
        }
    };
    timeout(SOON, withdrawn).await.expect("the old key is refused");
    assert_eq!(taken(&keys, "good-es256"), Ok(()));
}

#[tokio::test]
async fn what_was_good_stays_whatever_is_at_the_url() {
    let server = Server::start(Answer::Set(KEYS.to_owned())).await;
    let keys = KeyUrl::fetching(server.url(), None, FAST).unwrap();
    until("the first set", || keys.current().is_some()).await;
    let huge = Answer::Set(format!("{}{KEYS}", " ".repeat(MAX_SET)));
    for (wrong, why) in [
        (Answer::Status("500 Internal Server Error"), "it answered 500"),
        (Answer::Status("404 Not Found"), "it answered 404"),
        (Answer::Status("302 Found"), "redirects are not followed"),
        (Answer::Set("<html>".to_owned()), "it is no JWK set"),
        (huge, "more than 262144 bytes"),
        // So that the next failure is not this one still.
        (Answer::Status("503 Service Unavailable"), "it answered 503"),
        (
            Answer::Bytes(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{\"keys\""),
            "the answer cannot be read",
        ),
        (Answer::Bytes(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n\xff"), "it is no JWK set"),
        (Answer::Bytes(b"SSH-2.0-OpenSSH_9\r\n"), "it does not speak HTTP"),
        (Answer::Bytes(b""), "the connection broke before the answer"),
        (Answer::Silence, "no answer within 5 s"),
    ] {
        server.answer(wrong);
        until(why, || said(&keys).contains(why)).await;
        assert_eq!(taken(&keys, "good-es256"), Ok(()), "{why}");
        assert!(keys.failure().unwrap().contains("its keys of before still count"));
    }
    server.answer(Answer::Set(without("ec")));
    until("the next set", || keys.failure().is_none()).await;
    assert_eq!(taken(&keys, "good-es256"), Err(Refusal::Key));
}

#[tokio::test]
async fn keys_that_cannot_be_fetched_at_the_start_are_there_once_they_can() {
    let server = Server::start(Answer::Status("503 Service Unavailable")).await;
    let keys = KeyUrl::fetching(server.url(), None, FAST).unwrap();
    until("the failure", || keys.failure().is_some()).await;
    assert!(keys.current().is_none() && keys.failure().unwrap().contains("no JWT is taken until it can"));
    server.answer(Answer::Set(KEYS.to_owned()));
    until("the set", || keys.current().is_some() && keys.failure().is_none()).await;
    // The thread ends with the last who has it.
    let shared = Arc::downgrade(&keys.shared);
    drop(keys);
    until("the thread's end", || shared.upgrade().is_none()).await;
}

#[tokio::test]
async fn whoever_sends_tokens_has_the_issuer_asked_seldom_and_waits_for_nothing() {
    let server = Server::start(Answer::Set(KEYS.to_owned())).await;
    let seldom = Times { interval: NEVER, max_age: NEVER, learn: NEVER, retry: (NEVER, NEVER) };
    let keys = KeyUrl::fetching(server.url(), None, seldom).unwrap();
    until("the first set", || !keys.fetches.borrow().is_under_way).await;
    let start = Instant::now();
    for _ in 0..1_000 {
        assert!(!keys.learn().await);
    }
    assert_eq!(server.asked(), 1);
    assert!(start.elapsed() < LEARN_TIMEOUT * 100, "none of them waited");
    // A silent issuer holds a request no longer than that.
    let server = Server::start(Answer::Silence).await;
    let keys = KeyUrl::fetching(server.url(), None, seldom).unwrap();
    assert!(!keys.learn().await);
    until("the request", || server.asked() == 1).await;
}

#[tokio::test]
async fn a_key_is_unknown_only_by_a_set_that_was_asked_for_later() {
    let server = Server::start(Answer::Silence).await;
    let seldom = Times { interval: NEVER, max_age: NEVER, learn: SHORT, retry: (NEVER, NEVER) };
    let keys = KeyUrl::fetching(server.url(), None, seldom).unwrap();
    until("the request", || server.asked() == 1).await;
    // Its answer may be from before the token.
    assert!(!keys.learn().await);
    server.answer(Answer::Set(KEYS.to_owned()));
    // The fetch under way ends by its time, and one for a token follows.
    let fetched = async {
        while keys.current().is_none() {
            let _ = keys.learn().await;
            sleep(SHORT).await;
        }
    };
    timeout(SOON, fetched).await.expect("the set");
    let certain = async {
        while !keys.learn().await {
            sleep(SHORT).await;
        }
    };
    timeout(SOON, certain).await.expect("a fetch for a token");
    server.answer(Answer::Status("500 Internal Server Error"));
    for _ in 0..3 {
        assert!(!keys.learn().await, "a fetch that failed says nothing");
        sleep(SHORT).await;
    }
}

#[tokio::test]
async fn who_asks_again_and_again_learns_from_the_first_fetch_that_a_slow_issuer_answers() {
    let server = Server::start(Answer::Late(KEYS.to_owned())).await;
    let learn = LEARN_TIMEOUT + Duration::from_secs(1);
    let keys = KeyUrl::fetching(server.url(), None, Times { interval: NEVER, learn, ..FAST }).unwrap();
    until("the first set", || !keys.fetches.borrow().is_under_way).await;
    let certain = async {
        while !keys.learn().await {
            sleep(SHORT).await;
        }
    };
    timeout(SOON, certain).await.expect("that there is no such key");
}

#[tokio::test]
async fn a_set_that_cannot_be_fetched_again_counts_no_longer_than_its_age() {
    let server = Server::start(Answer::Set(KEYS.to_owned())).await;
    // Longer than a fetch takes on any test machine.
    let max_age = Duration::from_secs(4);
    let keys = KeyUrl::fetching(server.url(), None, Times { max_age, ..FAST }).unwrap();
    until("the first set", || keys.current().is_some()).await;
    server.answer(Answer::Status("500 Internal Server Error"));
    until("its end", || keys.current().is_none() && keys.failure().is_some()).await;
    assert!(keys.age() > max_age && keys.failure().unwrap().contains("no JWT is taken until it can"));
    // The same set is good again.
    server.answer(Answer::Set(KEYS.to_owned()));
    until("the set", || keys.current().is_some() && keys.failure().is_none()).await;
}

#[tokio::test]
async fn an_issuer_can_withdraw_all_its_keys() {
    for none in [r#"{"keys":[]}"#, r#"{"keys":[{"kty":"oct","kid":"a","k":"AAAA"}]}"#] {
        let server = Server::start(Answer::Set(KEYS.to_owned())).await;
        let keys = KeyUrl::fetching(server.url(), None, FAST).unwrap();
        until("the first set", || keys.current().is_some()).await;
        server.answer(Answer::Set(none.to_owned()));
        until("the withdrawal", || keys.current().is_none()).await;
        until("the failure", || said(&keys).contains(NO_KEY)).await;
        server.answer(Answer::Set(KEYS.to_owned()));
        until("the same set again", || keys.current().is_some() && keys.failure().is_none()).await;
    }
}

#[tokio::test]
async fn an_issuer_is_verified_or_not_believed() {
    let server = Server::start(Answer::Set(KEYS.to_owned())).await;
    let (ours, other) = (Authority::new("ours").unwrap(), Authority::new("other").unwrap());
    let front = other.issue("issuer", &["localhost"], Validity::Valid).unwrap();
    let front = TlsFront::start(&front, server.address).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.crt");
    replace(&ca, ours.certificate()).unwrap();
    static VARIABLES: TlsVariables = TlsVariables { ca: "API_JWKS_CA_FILE", identity: None };
    let tls = Tls::load(TlsFiles { ca: Some(ca), identity: None, variables: &VARIABLES }).unwrap();
    let url = format!("https://localhost:{}/keys?x=y", front.port()).parse().unwrap();
    let keys = KeyUrl::fetching(url, Some(tls), FAST).unwrap();
    until("the failure", || said(&keys).contains("by API_JWKS_CA_FILE")).await;
    assert_eq!((server.asked(), keys.current().is_none()), (0, true));
    front.show(&ours.issue("issuer", &["localhost"], Validity::Valid).unwrap()).unwrap();
    until("the set", || keys.current().is_some()).await;
    assert_eq!(taken(&keys, "good-es256"), Ok(()));
}
