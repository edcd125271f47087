//! Whatever a client sends, the others are served.

mod support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A frame whose header is right, so that the bytes get as far as the decoders; or any bytes.
fn frames() -> impl Strategy<Value = Vec<u8>> {
    let bytes = || proptest::collection::vec(any::<u8>(), 0..200);
    // Lengths of all ones, or large ones, are what breaks decoders.
    let lengths =
        || proptest::collection::vec(prop_oneof![Just(255), Just(127), Just(0), any::<u8>()], 0..100);
    let body = prop_oneof![bytes(), lengths()];
    let request = (0..75i16, 0..14i16, body).prop_map(|(key, version, body)| {
        let mut frame = BytesMut::new();
        frame.put_i32(i32::try_from(8 + 3 + body.len()).unwrap());
        frame.put_i16(key);
        frame.put_i16(version);
        frame.put_i32(7);
        // No client id, no tagged fields.
        frame.put_slice(&[255, 255, 0]);
        frame.put_slice(&body);
        frame.to_vec()
    });
    prop_oneof![4 => request, 1 => bytes()]
}

#[test]
fn garbage_closes_one_connection_and_nothing_else() {
    // tokio swallows a panic of a connection's task; in the binary it would end the process.
    static PANICS: AtomicUsize = AtomicUsize::new(0);
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        PANICS.fetch_add(1, Ordering::Relaxed);
        print(info);
    }));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let broker = runtime.block_on(start(dir.path()));
    let addr = broker.addr().to_string();
    let mut wire = runtime.block_on(async {
        let mut wire = Wire::connect(&addr).await;
        wire.create_topic("events", &[]).await;
        wire
    });
    let config = ProptestConfig { cases: 2_000, ..ProptestConfig::default() };
    TestRunner::new(config)
        .run(&frames(), |frame| {
            runtime.block_on(async {
                let mut stream = TcpStream::connect(&addr).await.unwrap();
                stream.write_all(&frame).await.unwrap();
                stream.shutdown().await.unwrap();
                // Answered or closed; a closed one may be reset.
                let mut answer = Vec::new();
                let read = stream.read_to_end(&mut answer);
                let _ = tokio::time::timeout(Duration::from_secs(5), read).await.unwrap();
            });
            Ok(())
        })
        .unwrap();
    runtime.block_on(async {
        assert_eq!(wire.produce("events", &[record("a", None)]).await, 0);
        broker.shutdown().await;
    });
    assert_eq!(PANICS.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_frame_over_the_limit_closes_the_connection() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await;
    for length in [i32::MAX, -1, i32::from_be_bytes(*b"GET ")] {
        let mut stream = TcpStream::connect(broker.addr()).await.unwrap();
        stream.write_i32(length).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        assert!(answer.is_empty());
    }
    broker.shutdown().await;
}

#[tokio::test]
async fn an_array_longer_than_its_frame_is_refused_before_memory_is_reserved() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await;
    // Metadata 1 and 9 with 2 147 483 646 topics.
    for frame in [
        &[0, 3, 0, 1, 0, 0, 0, 7, 255, 255, 127, 255, 255, 254][..],
        &[0, 3, 0, 9, 0, 0, 0, 7, 255, 255, 0, 255, 255, 255, 255, 7],
    ] {
        let mut wire = Wire::connect(&broker.addr().to_string()).await;
        wire.send_frame(frame).await;
        assert_eq!(wire.frame().await, None);
    }
    let mut wire = Wire::connect(&broker.addr().to_string()).await;
    wire.create_topic("still-serving", &[]).await;
    broker.shutdown().await;
}
