use harness::{Authority, Validity};
use task_events::tls::{Identity, Tls, TlsFiles, TlsStream, TlsVariables};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::time::timeout;

use super::*;

/// At most `most`, with little time.
fn connections(most: usize) -> Arc<Connections> {
    let ms = Duration::from_millis;
    let times = Times { answer: ms(2_000), idle: ms(2_000), short_idle: ms(100), take: ms(200) };
    Arc::new(Connections { times, ..Connections::new(most) })
}

/// The two ends of a connection that was admitted.
async fn pair(connections: &Arc<Connections>) -> (TcpStream, Connection) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (accepted, _) = listener.accept().await.unwrap();
    (client, Arc::clone(connections).admit(accepted, None).await.unwrap())
}

/// What has to come to its end.
async fn soon<T>(work: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(30), work).await.expect("it does not end")
}

async fn to_the_end(mut client: TcpStream) -> String {
    let mut answer = String::new();
    soon(client.read_to_string(&mut answer)).await.unwrap();
    answer
}

#[tokio::test]
async fn a_request_that_trickles_is_ended_also_when_it_is_not_the_first() {
    let connections = connections(10);
    let (mut client, mut connection) = pair(&connections).await;
    client.write_all(b"GET").await.unwrap();
    connection.read_exact(&mut [0; 3]).await.unwrap();
    connection.write_all(b"answer").await.unwrap();
    let (mut reading, mut writing) = client.into_split();
    let trickle = tokio::spawn(async move {
        while writing.write_all(b"x").await.is_ok() {
            sleep(Duration::from_millis(10)).await;
        }
    });
    let begun = Instant::now();
    let ended = soon(async {
        loop {
            if let Err(error) = connection.read_exact(&mut [0]).await {
                break error;
            }
        }
    })
    .await;
    assert_eq!(ended.kind(), io::ErrorKind::TimedOut);
    assert!(begun.elapsed() >= connections.times.answer);
    trickle.abort();
    let expected = [b"answer", TOO_SLOW].concat();
    let mut answer = vec![0; expected.len()];
    soon(reading.read_exact(&mut answer)).await.unwrap();
    assert_eq!(answer, expected);
}

#[tokio::test]
async fn an_idle_connection_is_closed_without_a_word_and_sooner_where_many_are_open() {
    // Where many are open the longer time would not end in this test.
    for (most, idle) in [(10, Duration::from_secs(1)), (1, Duration::from_secs(3_600))] {
        let Times { short_idle, .. } = connections(most).times;
        let times = Times { idle, ..connections(most).times };
        let connections = Arc::new(Connections { times, ..Connections::new(most) });
        let (client, mut connection) = pair(&connections).await;
        connection.write_all(b"answer").await.unwrap();
        let begun = Instant::now();
        let error = soon(connection.read_exact(&mut [0])).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let took = begun.elapsed();
        assert!(took >= if most == 1 { short_idle } else { idle }, "{took:?}");
        drop(connection);
        assert_eq!(to_the_end(client).await, "answer");
        assert_eq!(connections.open(), 0);
    }
}

/// The same over TLS, with the client's end as it is below TLS.
async fn secured(connections: &Arc<Connections>) -> (TlsStream<TcpStream>, Connection) {
    static CA: TlsVariables = TlsVariables { ca: "CA", identity: None };
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new("ca").unwrap();
    let ca = folder.path().join("ca.crt");
    harness::replace(&ca, authority.certificate()).unwrap();
    let issued = authority.issue("api", &["localhost"], Validity::Valid).unwrap();
    let (certificate, key) = issued.write(folder.path(), "api").unwrap();
    let server = TlsServer::load(Identity { certificate, key }, ("CERTIFICATE", "KEY")).unwrap();
    let client = Tls::load(TlsFiles { ca: Some(ca), identity: None, variables: &CA }).unwrap();
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (accepted, _) = listener.accept().await.unwrap();
    let (client, connection) = tokio::join!(
        client.connect(stream, "localhost"),
        Arc::clone(connections).admit(accepted, Some(&server))
    );
    (client.unwrap(), connection.unwrap())
}

#[tokio::test]
async fn a_client_of_tls_that_does_not_take_its_answer_is_left() {
    let connections = connections(10);
    let (_client, mut connection) = secured(&connections).await;
    let (begun, answer) = (Instant::now(), vec![b'x'; 64 * 1024]);
    let error = soon(async {
        loop {
            if let Err(error) = connection.write_all(&answer).await {
                break error;
            }
            if let Err(error) = connection.flush().await {
                break error;
            }
        }
    })
    .await;
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    assert!(begun.elapsed() >= connections.times.take);
    // The end as well waits no longer than for an answer.
    soon(connection.shutdown()).await.unwrap_err();
}

#[tokio::test]
async fn a_client_of_tls_is_told_the_end_and_may_end_its_half_without_a_word() {
    let connections = connections(1);
    let (mut client, mut connection) = secured(&connections).await;
    connection.write_all(b"answer").await.unwrap();
    connection.flush().await.unwrap();
    // Idle for too long.
    soon(connection.read_exact(&mut [0])).await.unwrap_err();
    drop(connection);
    let mut answer = String::new();
    soon(client.read_to_string(&mut answer)).await.unwrap();
    assert_eq!((answer.as_str(), connections.open()), ("answer", 0));

    let (mut client, mut connection) = secured(&connections).await;
    client.write_all(b"request").await.unwrap();
    client.flush().await.unwrap();
    client.get_mut().0.shutdown().await.unwrap();
    let mut request = Vec::new();
    soon(connection.read_to_end(&mut request)).await.unwrap();
    assert_eq!(request, b"request");
    connection.write_all(b"answer").await.unwrap();
    connection.flush().await.unwrap();
    assert_eq!(soon(client.read_exact(&mut [0; 6])).await.unwrap(), 6);
}

#[tokio::test]
async fn a_client_that_does_not_take_its_answer_is_left() {
    let connections = connections(10);
    let (_client, mut connection) = pair(&connections).await;
    let (begun, answer) = (Instant::now(), vec![b'x'; 64 * 1024]);
    let error = soon(async {
        loop {
            if let Err(error) = connection.write_all(&answer).await {
                break error;
            }
        }
    })
    .await;
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    assert!(begun.elapsed() >= connections.times.take);
}

#[tokio::test]
async fn where_all_hold_much_none_may_hold_more_than_its_share() {
    let connections = connections(10);
    let (mut small, mut small_connection) = pair(&connections).await;
    let (_large, mut large_connection) = pair(&connections).await;
    assert!(large_connection.hold(HELD).is_ok() && connections.are_crowded());
    small.write_all(&[b'x'; OWN_SHARE + 1]).await.unwrap();
    small_connection.read_exact(&mut [0; OWN_SHARE]).await.unwrap();
    assert!(small_connection.read_exact(&mut [0]).await.is_err());
    drop(large_connection);
    assert!(!connections.are_crowded());
    drop(small_connection);
    assert_eq!(connections.held.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn one_too_many_is_answered_503() {
    let connections = connections(1);
    let (_client, _connection) = pair(&connections).await;
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    client.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    let (accepted, _) = listener.accept().await.unwrap();
    let (answer, refused) = tokio::join!(to_the_end(client), Arc::clone(&connections).admit(accepted, None));
    assert!(refused.is_err());
    assert_eq!(answer.as_bytes(), BUSY);
    assert_eq!(connections.refused(), 1);
}
