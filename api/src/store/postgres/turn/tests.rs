use harness::Postgres;
use task_events::database::{DatabaseUrl, connect, ensure};
use tokio::time::sleep;

use super::*;

/// Attempts where the machine is too slow for a statement's time.
const ATTEMPTS: usize = 5;

async fn session(server: &Postgres, database: &str) -> Session {
    let endpoint = DatabaseUrl::new(&server.url(database)).endpoint().await.unwrap();
    connect(&endpoint, None).await.unwrap()
}

/// A new database with that name and our tables, on the server of these tests, if there is one.
async fn prepared(database: &str) -> Option<(&'static Postgres, Session)> {
    let server = Postgres::shared().unwrap()?;
    server.create_database(database).unwrap();
    let session = session(server, database).await;
    ensure(&session, true).await.unwrap();
    Some((server, session))
}

/// By that process: claimed again where an answer came too late, as it does then.
async fn claimed(session: &Session, me: Uuid) -> Option<Held> {
    for _ in 0..ATTEMPTS {
        match claim(session, me, Uuid::new_v4()).await {
            Ok(claimed) => return claimed.map(|(held, _)| held),
            Err(error) => println!("{error}"),
        }
    }
    panic!("no claim in its time");
}

/// The numbers of what is pulled, and whether there may be more; pulled again where that took too long.
async fn pulled(
    held: &Held,
    session: &Session,
    without: &Without,
    full: &[i32],
    until: Instant,
) -> (Vec<i64>, bool) {
    for _ in 0..ATTEMPTS {
        match held.term.pull(session, without, 2, full, until).await {
            Ok((events, is_limited)) => {
                return (events.iter().map(|event| event.seq).collect(), is_limited);
            }
            Err(TurnError::Database(error)) => println!("{error}"),
            Err(error) => panic!("{error}"),
        }
        session.batch_execute("ROLLBACK").await.unwrap();
    }
    panic!("no pull in its time");
}

/// Whatever has piled up: no statement looks at more than a part of it, and none is sent where nothing is wanted.
#[tokio::test]
async fn what_waits_for_a_full_partition_or_a_blocked_task_is_passed_over_by_parts() {
    let Some((server, session)) = prepared("parts").await else { return };
    let insert = format!(
        "INSERT INTO task_events.outbox (seq, event_id, task_id, hash, encoding, payload) OVERRIDING SYSTEM VALUE \
         SELECT seq, gen_random_uuid(), gen_random_uuid(), hash, 0, '' FROM (VALUES (1, 0), ({}, 1), ({}, 1)) v (seq, hash)",
        1 + PART,
        1 + 3 * PART
    );
    session.batch_execute(&insert).await.unwrap();
    let held = claimed(&session, Uuid::new_v4()).await.unwrap();
    let pull =
        async |full: &'static [i32], until| pulled(&held, &session, &Without::default(), full, until).await;
    let (over, later) = (Instant::now(), Instant::now() + Duration::from_secs(600));
    assert_eq!(pull(&[0], over).await, (vec![], true));
    assert_eq!(pull(&[0], later).await, (vec![1 + PART, 1 + 3 * PART], false));
    assert_eq!(pull(&[1], later).await, (vec![1], false));
    let pull_without = async |hash, until| {
        let without = Without { hashes: vec![hash], ..Without::default() };
        pulled(&held, &session, &without, &[], until).await
    };
    assert_eq!(pull_without(0, over).await, (vec![], true));
    assert_eq!(pull_without(0, later).await, (vec![1 + PART, 1 + 3 * PART], false));
    assert_eq!(pull_without(1, later).await, (vec![1], false));
    // As after a crash that forgot what the holder did last.
    held.term.count.fetch_add(1, Ordering::AcqRel);
    for full in [&[][..], &[0]] {
        let mut went_back = Ok(());
        for _ in 0..ATTEMPTS {
            went_back = held.term.pull(&session, &Without::default(), 2, full, later).await.map(drop);
            let _ = session.batch_execute("ROLLBACK").await;
            if !matches!(went_back, Err(TurnError::Database(_))) {
                break;
            }
        }
        assert!(matches!(went_back, Err(TurnError::Lost)), "{full:?}: {went_back:?}");
    }
    held.term.count.fetch_sub(1, Ordering::AcqRel);
    server
        .sql("postgres", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'parts'")
        .unwrap();
    assert_eq!(pull(&[0, 1], later).await, (vec![], false), "no statement is needed");
    assert!(held.term.pull(&session, &Without::default(), 2, &[], later).await.is_err());
}

/// The holder died with a database whose clock was ahead.
#[tokio::test]
async fn a_turn_that_expires_later_than_any_can_is_free() {
    let Some((server, session)) = prepared("clock").await else { return };
    let mut held = claimed(&session, Uuid::new_v4()).await.unwrap();
    server.sql("clock", "UPDATE task_events.relay SET expires_at = now() + 1.5 * interval '6 s'").unwrap();
    assert!(claimed(&session, Uuid::new_v4()).await.is_none());
    server.sql("clock", "UPDATE task_events.relay SET expires_at = now() + interval '1 hour'").unwrap();
    assert!(claimed(&session, Uuid::new_v4()).await.is_some());
    held.valid_until = Instant::now() + Duration::from_secs(60);
    assert!(matches!(held.renew(&session).await, Err(TurnError::Lost)));
}

/// As where the database's disk is stalled: the turn is lost only where the lease would run out meanwhile.
#[tokio::test]
async fn a_statement_of_the_holder_may_take_as_long_as_the_lease_leaves() {
    let Some((server, session)) = prepared("hiccup").await else { return };
    let locking = self::session(server, "hiccup").await;
    let mut held = claimed(&session, Uuid::new_v4()).await.unwrap();
    // Of a lease that is long enough for any test machine, and without the server's own limits.
    let unlimited =
        "SET lock_timeout = 0; SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0";
    for session in [&session, &locking] {
        session.batch_execute(unlimited).await.unwrap();
    }
    held.valid_until = Instant::now() + Duration::from_secs(60);
    locking.batch_execute("BEGIN; SELECT 1 FROM task_events.relay FOR UPDATE").await.unwrap();
    let unlocked = async {
        sleep(TURN_TIMEOUT + Duration::from_secs(1)).await;
        locking.batch_execute("ROLLBACK").await.unwrap();
    };
    tokio::join!(held.renew(&session), unlocked).0.unwrap();

    held.valid_until = Instant::now();
    locking.batch_execute("BEGIN; SELECT 1 FROM task_events.relay FOR UPDATE").await.unwrap();
    let given_up = held.renew(&session).await;
    assert!(matches!(given_up, Err(TurnError::Database(_))), "{given_up:?}");
}
