//! Hosts that hang, refuse and serve.

use std::future::pending;
use std::sync::Mutex;

use tokio::time::sleep;

use super::super::first::SLOW;
use super::*;

fn hosts(address: &str) -> Hosts {
    Hosts::of(&address.parse().unwrap()).unwrap()
}

fn host(config: &Config) -> String {
    let [Host::Tcp(name)] = config.get_hosts() else { panic!("{config:?}") };
    name.clone()
}

/// 127.0.0.N: what that one does.
async fn connected(hosts: &Hosts, tried: &Mutex<Vec<String>>, which: &str) -> Result<String, DatabaseError> {
    let connect: &Connect<'_, String> = &|config| {
        let (host, is_it) = (host(config), host(config) == which);
        tried.lock().unwrap().push(host.clone());
        Box::pin(async move {
            let refused = |trouble, why| Err(DatabaseError::new(trouble, why));
            match host.as_str() {
                "127.0.0.1" => pending().await,
                "127.0.0.2" => refused(Trouble::ReadOnly, "it is a standby"),
                "127.0.0.3" => refused(Trouble::Connection, "TLS: its certificate is of another"),
                _ if is_it => Ok(host),
                _ => refused(Trouble::Connection, "refused"),
            }
        })
    };
    hosts.first_of(connect).await
}

#[tokio::test(start_paused = true)]
async fn a_host_that_answers_nothing_hides_no_other_and_is_not_tried_first_again() {
    let hosts = hosts("postgres://u:p@127.0.0.1,127.0.0.2,127.0.0.4:5433/d?connect_timeout=2");
    let tried = Mutex::<Vec<String>>::default();
    let taken = || std::mem::take(&mut *tried.lock().unwrap()).concat().replace("127.0.0.", "");
    assert_eq!(connected(&hosts, &tried, "127.0.0.4").await.unwrap(), "127.0.0.4");
    assert_eq!(taken(), "124");
    assert_eq!(connected(&hosts, &tried, "127.0.0.4").await.unwrap(), "127.0.0.4");
    assert_eq!(taken(), "4");
    assert!(connected(&hosts, &tried, "none").await.is_err());
    assert_eq!(taken(), "412");
    // A connect that is given up while it waits for one: the next begins behind that.
    let hosts = self::hosts("postgres://u:p@127.0.0.1,127.0.0.2,127.0.0.4/d");
    assert!(timeout(Duration::from_secs(1), connected(&hosts, &tried, "127.0.0.4")).await.is_err());
    assert_eq!(connected(&hosts, &tried, "127.0.0.4").await.unwrap(), "127.0.0.4");
    assert_eq!(taken(), "124");
}

/// As after a restart, when a replica makes all its connections.
#[tokio::test(start_paused = true)]
async fn those_who_connect_at_the_same_time_all_begin_with_the_one_that_serves() {
    let hosts = hosts("postgres://u:p@127.0.0.4,127.0.0.1/d");
    let tried = Mutex::<Vec<String>>::default();
    let slow: &Connect<'_, ()> = &|config| {
        tried.lock().unwrap().push(host(config));
        let is_live = host(config) == "127.0.0.4";
        Box::pin(async move {
            if is_live {
                sleep(2 * SLOW).await
            } else {
                pending().await
            }
            Ok(())
        })
    };
    let (first, second) = tokio::join!(hosts.first_of(slow), hosts.first_of(slow));
    assert!(first.is_ok() && second.is_ok());
    hosts.first_of(slow).await.unwrap();
    // One that is given up at once says nothing.
    assert!(timeout(SLOW / 2, hosts.first_of(slow)).await.is_err());
    hosts.first_of(slow).await.unwrap();
    assert_eq!(*tried.lock().unwrap(), ["127.0.0.4"; 5]);
}

/// A refusal costs no time; what hangs behind it does, and is behind the rest the next time.
#[tokio::test(start_paused = true)]
async fn however_many_hang_all_are_tried_in_the_end() {
    let hosts =
        hosts("postgres://u:p@127.0.0.2,127.0.0.1,127.0.0.1,127.0.0.1,127.0.0.1,127.0.0.1,127.0.0.4/d");
    let tried = Mutex::<Vec<String>>::default();
    let mut connects = 0;
    while timeout(Duration::from_secs(10), connected(&hosts, &tried, "127.0.0.4")).await.is_err() {
        connects += 1;
        assert!(connects < 3, "{tried:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_address_of_a_host_that_answers_nothing_is_not_tried_first_again() {
    let hosts = hosts("postgres://u:p@localhost/d");
    let target = &hosts.targets[0];
    let tried = Mutex::<Vec<u16>>::default();
    let connect: &Connect<'_, ()> = &|config| {
        let port = config.get_ports()[0];
        tried.lock().unwrap().push(port);
        Box::pin(async move { if port < 5 { pending().await } else { Ok(()) } })
    };
    let addresses: Vec<Config> =
        (1..=6).map(|port| single(&target.config, &Host::Tcp("localhost".to_owned()), None, port)).collect();
    let limit = Duration::from_secs(10);
    assert!(timeout(limit, target.first_of(&addresses, connect, true)).await.is_err());
    for _ in 0..2 {
        target.first_of(&addresses, connect, true).await.unwrap();
    }
    assert_eq!(*tried.lock().unwrap(), [1, 2, 3, 4, 5, 5]);
}

#[tokio::test(start_paused = true)]
async fn the_error_names_each_host_and_is_what_tells_most() {
    let tried = Mutex::<Vec<String>>::default();
    let error = async |address| connected(&hosts(address), &tried, "none").await.unwrap_err();
    let of_all = error("postgres://u:hush@127.0.0.3,127.0.0.2:5433,127.0.0.1/d").await;
    assert_eq!(of_all.trouble(), Trouble::Connection);
    assert_eq!(
        of_all.to_string(),
        "127.0.0.3: TLS: its certificate is of another; 127.0.0.2:5433: it is a standby; \
         127.0.0.1: connect: the database does not answer in time"
    );
    let standbys = error("postgres://u:hush@127.0.0.2,127.0.0.2/d").await;
    assert_eq!(
        (standbys.trouble(), standbys.to_string().as_str()),
        (Trouble::ReadOnly, "127.0.0.2: it is a standby")
    );
    let alone = error("postgres://u:hush@127.0.0.2/d").await;
    assert_eq!(alone.to_string(), "it is a standby");
}

#[test]
fn a_host_alone_has_all_that_the_address_says() {
    let config: Config =
        "host=a,b port=1,2 user=u password=p dbname=d options=o application_name=n connect_timeout=7 \
        tcp_user_timeout=8 keepalives=0 keepalives_idle=9 keepalives_interval=10 keepalives_retries=11 \
        target_session_attrs=read-write channel_binding=require sslmode=require"
            .parse()
            .unwrap();
    let wanted: Config =
        "host=b port=2 user=u password=p dbname=d options=o application_name=n connect_timeout=7 \
        tcp_user_timeout=8 keepalives=0 keepalives_idle=9 keepalives_interval=10 keepalives_retries=11 \
        target_session_attrs=read-write channel_binding=require sslmode=require"
            .parse()
            .unwrap();
    let hosts = Hosts::of(&config).unwrap();
    assert_eq!(hosts.targets[1].config, wanted);
    for wrong in ["host=a,b port=1,2,3", "host=a,b hostaddr=10.0.0.1", "host=a load_balance_hosts=random"] {
        assert!(Hosts::of(&wrong.parse().unwrap()).is_err(), "{wrong}");
    }
}
