//! The instances of a group share its partitions: six of them, with 1, 3, 2, 5 and again 1 instance under load.
//!
//! How long a move takes depends on the machine, and so does who of several sees it first: times are printed, and what is
//! asserted holds on a slow machine as well. That moves are the fewest is asserted where time is the test's own
//! (`common/src/runtime/sharing_model.rs`).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use harness::{
    Api, EVENTS, GROUPS, OFFSETS, Outcome, Result, SOON, Service, World, alone, create_topic, eventually,
    read_topic,
};
use serde_json::Value;
use tokio::task::JoinHandle;

const PARTITIONS: usize = 6;
/// After the last change of who lives. It takes 2 to 3 s, which are printed; the rest is for a machine that is busy.
const EVEN_WITHIN: Duration = Duration::from_secs(40);
/// Events that come in each phase, at least.
const PHASE_EVENTS: usize = 30;
/// So long that an instance on a busy machine does not seem dead.
const LONG_LEASE: Duration = Duration::from_secs(15);

/// What the offsets topic says of one group.
#[derive(Debug, Default)]
struct Group {
    /// The latest claim of each partition, and whether it was released: instance, token.
    owners: BTreeMap<usize, (String, i64, bool)>,
    /// The offset at which each member first joined.
    joined: BTreeMap<String, i64>,
    /// Which ownerships, by partition and token, were given to an instance by name. One may say so twice.
    gifts: BTreeSet<(usize, i64)>,
    /// How long those were nobody's that it claimed.
    pauses: Vec<Duration>,
    claims: usize,
    /// The position of each partition.
    positions: BTreeMap<usize, i64>,
}

impl Group {
    async fn read(world: &World, group: &str) -> Result<Self> {
        let mut state = Self::default();
        let mut given: HashMap<usize, (String, i64)> = HashMap::new();
        for record in read_topic(&world.broker.bootstrap(), OFFSETS).await? {
            let key = record.key()?;
            let parts: Vec<&str> = key.split('/').collect();
            if parts.first() != Some(&group) {
                continue;
            }
            if parts[1] == "member" {
                state.joined.entry(parts[2].to_owned()).or_insert(record.offset);
                continue;
            }
            let partition: usize = parts[2].parse().expect("a partition");
            if parts[3] == "claim" {
                let instance = text(&record.json()?["instance_id"]);
                state.claims += 1;
                if let Some((_, at)) = given.remove(&partition).filter(|(to, _)| *to == instance) {
                    let pause = record.record.timestamp.timestamp_millis() - at;
                    state.pauses.push(Duration::from_millis(pause.try_into().unwrap_or(0)));
                }
                state.owners.insert(partition, (instance, record.offset, false));
            } else if record.record.value.is_some() {
                let (commit, token) = (record.json()?, parts[4].parse::<i64>().expect("a token"));
                if let Some((_, _, is_released)) =
                    state.owners.get_mut(&partition).filter(|owner| owner.1 == token)
                {
                    *is_released = commit["released"] == true;
                    state.positions.insert(partition, commit["offset"].as_i64().expect("an offset"));
                }
                if !commit["to"].is_null() {
                    let is_new = state.gifts.insert((partition, token));
                    let given_at = record.record.timestamp.timestamp_millis();
                    is_new.then(|| given.insert(partition, (text(&commit["to"]), given_at)));
                }
            }
        }
        Ok(state)
    }

    /// How many partitions each owner has.
    fn shares(&self) -> BTreeMap<String, usize> {
        let mut shares = BTreeMap::new();
        for (instance, _, is_released) in self.owners.values() {
            if !is_released {
                *shares.entry(instance.clone()).or_insert(0) += 1;
            }
        }
        shares
    }

    fn is_even(&self, instances: usize) -> bool {
        let shares = self.shares();
        let (most, least) = (shares.values().max(), shares.values().min());
        shares.len() == instances
            && shares.values().sum::<usize>() == PARTITIONS
            && most.zip(least).is_some_and(|(most, least)| most - least <= 1)
    }
}

fn text(value: &Value) -> String {
    value.as_str().expect("text").to_owned()
}

/// The instances of both groups, each by its number.
struct System {
    world: World,
    instances: BTreeMap<usize, Vec<Service>>,
    ended: Vec<Service>,
    started: usize,
}

impl System {
    fn start(&mut self, count: usize) -> Result<()> {
        for _ in 0..count {
            self.started += 1;
            let name = format!("i{}", self.started);
            let start = |group: &&str| {
                self.world.instance(group, &name).env("LEASE_MS", LONG_LEASE.as_millis()).start()
            };
            self.instances.insert(self.started, GROUPS.iter().map(start).collect::<Result<_>>()?);
        }
        Ok(())
    }

    fn logs(&self) -> Vec<String> {
        let log = |number| self.world.instance_audit_log(&format!("i{number}")).display().to_string();
        (1..=self.started).map(log).collect()
    }

    async fn groups(&self) -> Result<Vec<Group>> {
        let mut groups = Vec::new();
        for group in GROUPS {
            groups.push(Group::read(&self.world, group).await?);
        }
        Ok(groups)
    }

    /// Waits until so many are members of each group, and then until each has its share. Returns the groups.
    async fn even(&self, instances: usize) -> Result<Vec<Group>> {
        let members = self.started;
        eventually("all to be members", SOON, async || {
            let groups = self.groups().await?;
            Ok(groups.iter().all(|group| group.joined.len() == members).then_some(()))
        })
        .await?;
        self.even_within(EVEN_WITHIN, instances).await
    }

    async fn even_within(&self, limit: Duration, instances: usize) -> Result<Vec<Group>> {
        let changed = Instant::now();
        let even = eventually("even shares", SOON, async || {
            let groups = self.groups().await?;
            Ok(groups.iter().all(|group| group.is_even(instances)).then_some(groups))
        })
        .await?;
        let took = changed.elapsed();
        println!("{instances} instances: even after {took:?}");
        assert!(took < limit, "{took:?}");
        Ok(even)
    }
}

/// How many claims were made since `before`. Where an instance joins after the others have given already, or reads late,
/// a partition moves once more.
fn moves(before: &Group, after: &Group, fewest: usize) {
    let moves = after.claims - before.claims;
    println!("{moves} moves, {fewest} at least");
    assert!(moves >= fewest && moves <= PARTITIONS + fewest, "{before:?} {after:?}");
}

/// Tasks are created all the time, and each is answered 201.
struct Load {
    task: JoinHandle<Outcome>,
    created: Arc<AtomicUsize>,
    is_over: Arc<AtomicBool>,
}

impl Load {
    fn start(api: Api) -> Self {
        let (created, is_over) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let (counter, ends) = (Arc::clone(&created), Arc::clone(&is_over));
        let task = tokio::spawn(async move {
            for number in 0.. {
                if ends.load(Ordering::Relaxed) {
                    break;
                }
                api.create(&number.to_string()).await?;
                counter.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(4)).await;
            }
            Ok(())
        });
        Self { task, created, is_over }
    }

    /// Each task that the API may have stored was answered.
    async fn end(self) -> Outcome {
        self.is_over.store(true, Ordering::Relaxed);
        self.task.await.expect("no panic")
    }

    /// Returns when so many events have come since the call that each partition has some.
    async fn goes_on(&mut self) -> Outcome {
        let enough = self.created.load(Ordering::Relaxed) + PHASE_EVENTS;
        eventually("events under the present owners", SOON, async || {
            if self.task.is_finished() {
                (&mut self.task).await.expect("no panic").expect("a load that goes on");
            }
            Ok((self.created.load(Ordering::Relaxed) >= enough).then_some(()))
        })
        .await?;
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn six_partitions_are_shared_by_1_3_2_5_and_1_instances_and_nothing_is_lost_or_repeated() -> Outcome {
    let _alone = alone().await;
    let world = World::without_topics().await?;
    create_topic(&world.broker.bootstrap(), EVENTS, i32::try_from(PARTITIONS)?).await?;
    world.create_topics().await?;
    let (_service, api) = world.start_api().await?;
    let mut load = Load::start(Api::new(api.url())?);
    let mut system = System { world, instances: BTreeMap::new(), ended: Vec::new(), started: 0 };

    system.start(1)?;
    let one = system.even(1).await?;
    assert!(one.iter().all(|group| group.claims == PARTITIONS), "alone it claims each once: {one:?}");
    load.goes_on().await?;

    system.start(2)?;
    let three = system.even(3).await?;
    one.iter().zip(&three).for_each(|(before, after)| moves(before, after, 4));
    load.goes_on().await?;

    // kill -9: what it had is owned again a lease later, and nothing else moves.
    let killed = system.instances.remove(&2).expect("the second");
    for mut service in killed {
        service.kill9();
        system.ended.push(service);
    }
    let at_kill = system.groups().await?;
    let two = system.even_within(LONG_LEASE + EVEN_WITHIN, 2).await?;
    // Each is claimed once, unless the others saw the lease end at different times: then the wrong one of them may
    // have claimed it first, and gives it.
    for (before, after) in at_kill.iter().zip(&two) {
        let claims = after.claims - before.claims;
        assert!((2..=6).contains(&claims), "{before:?} {after:?}");
    }
    load.goes_on().await?;

    system.start(3)?;
    let five = system.even(5).await?;
    two.iter().zip(&five).for_each(|(before, after)| moves(before, after, 3));
    load.goes_on().await?;

    // What may be repeated, of each group, from which offset: what those had done that could not commit it.
    let mut unfinished: [BTreeMap<usize, i64>; 2] = Default::default();
    for (group, unfinished) in unfinished.iter_mut().enumerate() {
        let owned = at_kill[group].owners.iter();
        let lost = owned.filter(|(partition, owner)| two[group].owners[*partition].0 != owner.0);
        unfinished.extend(lost.map(|(partition, _)| (*partition, at_kill[group].positions[partition])));
    }

    // In order, one after the other: what each had is claimed, and no lease is waited for.
    for number in [1, 3, 4, 5] {
        let before = system.groups().await?;
        let mut services = system.instances.remove(&number).expect("an instance");
        for service in &mut services {
            assert_eq!(service.terminate(SOON).await?.code(), Some(0));
        }
        let after = system.even_within(EVEN_WITHIN, system.instances.len()).await?;
        for (group, (before, after)) in before.iter().zip(&after).enumerate() {
            let stayed: BTreeSet<_> = after.shares().into_keys().collect();
            let had: Vec<_> = before.owners.iter().filter(|(_, (id, ..))| !stayed.contains(id)).collect();
            assert!(after.claims - before.claims >= had.len(), "{before:?} {after:?}");
            // On a machine that held its stop up.
            if services[group].missed_release() {
                for (partition, _) in had {
                    let from = unfinished[group].entry(*partition).or_insert(i64::MAX);
                    *from = before.positions.get(partition).copied().unwrap_or(0).min(*from);
                }
            }
        }
        load.goes_on().await?;
        system.ended.append(&mut services);
    }

    for group in system.groups().await? {
        let mut pauses = group.pauses.clone();
        pauses.sort_unstable();
        println!("partitions were nobody's for {pauses:?}");
        assert!(
            2 * pauses.len() >= group.gifts.len(),
            "most are claimed by whom they are given to: {group:?}"
        );
    }

    load.end().await?;
    api.delivered().await?;
    let topic = system.world.topic(EVENTS).await?;
    let mut ends = [0_i64; PARTITIONS];
    topic.iter().for_each(|record| ends[usize::try_from(record.partition).unwrap()] = record.offset + 1);
    eventually("all to be committed", SOON, async || {
        let groups = system.groups().await?;
        let is_done = |group: &Group| (0..PARTITIONS).all(|p| group.positions.get(&p) == Some(&ends[p]));
        Ok(groups.iter().all(is_done).then_some(()))
    })
    .await?;

    // The union of the audit logs: each event once, but for what the killed one had written and not committed.
    let mut args = vec!["--format".to_owned(), "json".to_owned(), "audit".to_owned(), "verify".to_owned()];
    args.extend(system.logs().into_iter().filter(|log| std::path::Path::new(log).exists()));
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let verified = system.world.taskctl(&args).await?;
    assert_eq!(verified.code, Some(0), "{verified:?}");
    let report: Value = serde_json::from_str(&verified.stdout).expect("JSON");
    let count = |field: &str| usize::try_from(report[field].as_u64().expect("a number")).unwrap();
    assert_eq!((count("unexplained"), count("filled"), count("restarts")), (0, 0, 0), "{report}");
    assert_eq!(report["missing"], serde_json::json!([]), "{report}");
    assert_eq!(count("lines") - count("in_several"), topic.len(), "{report}");
    println!("{} events, {} of them in two audit logs", topic.len(), count("in_several"));
    for overlap in report["overlaps"].as_array().expect("a list") {
        let partition = usize::try_from(overlap["partition"].as_u64().unwrap()).unwrap();
        let from =
            unfinished[1].get(&partition).unwrap_or_else(|| panic!("nothing was lost here: {overlap}"));
        assert!(overlap["first_offset"].as_i64().unwrap() >= *from, "{overlap} {unfinished:?}");
    }

    // Notifications: each once, but for what the killed one had written and not committed.
    for service in system.instances.values().flatten() {
        service.settled().await?;
    }
    let places: HashMap<String, (usize, i64)> = topic
        .iter()
        .map(|record| {
            let id = text(&record.json()?["data"]["task_id"]);
            Ok((id, (usize::try_from(record.partition).unwrap(), record.offset)))
        })
        .collect::<Result<_>>()?;
    let mut told: HashMap<String, usize> = HashMap::new();
    let services = system.instances.values().flatten().chain(&system.ended);
    for line in services.flat_map(Service::history) {
        if let Some((_, id)) =
            line.split_once("NOTIFICATION: ").and_then(|(_, line)| line.rsplit_once("(ID: "))
        {
            *told.entry(id.trim_end_matches(')').to_owned()).or_insert(0) += 1;
        }
    }
    assert_eq!(told.len(), topic.len(), "each task is notified");
    let repeated: Vec<_> = told.iter().filter(|(_, times)| **times > 1).map(|(id, _)| places[id]).collect();
    println!("{} notifications repeated, of {}", repeated.len(), told.len());
    for (partition, offset) in repeated {
        let may_be = unfinished[0].get(&partition).is_some_and(|from| offset >= *from);
        assert!(may_be, "{partition}/{offset} {unfinished:?}");
    }
    Ok(())
}

/// Its part of the events was committed, and is in no other log.
#[tokio::test(flavor = "multi_thread")]
async fn an_instance_whose_audit_log_was_lost_says_so_and_completes_it_when_it_owns_the_partition_again()
-> Outcome {
    let _alone = alone().await;
    let world = World::without_topics().await?;
    create_topic(&world.broker.bootstrap(), EVENTS, 2).await?;
    world.create_topics().await?;
    let (_service, api) = world.start_api().await?;
    let create = async || -> Result<usize> {
        for number in 0..20 {
            api.create(&number.to_string()).await?;
        }
        api.delivered().await?;
        Ok(world.topic(EVENTS).await?.len())
    };
    let audited = async |logs: &[&str], count: usize| audited_in(&world, logs, count).await;
    let owners = async |count: usize| {
        eventually("the owners", SOON, async || {
            let shares = Group::read(&world, "audit-service").await?.shares();
            Ok((shares.len() == count && shares.values().sum::<usize>() == 2).then_some(()))
        })
        .await
    };

    let start =
        |name: &str| world.instance("audit-service", name).env("LEASE_MS", LONG_LEASE.as_millis()).start();
    let mut first = start("first")?;
    owners(1).await?;
    let mut second = start("second")?;
    owners(2).await?;
    let both = create().await?;
    audited(&["first", "second"], both).await?;

    // The first goes, the second goes on with its partition, and the first's log is lost meanwhile.
    assert_eq!(first.terminate(SOON).await?.code(), Some(0));
    let more = create().await?;
    audited(&["first", "second"], more).await?;
    assert!(second.count("reading again") == 0, "it reads nothing of what is in the first's log");
    std::fs::remove_file(world.instance_audit_log("first"))?;
    first.restart()?;
    first.wait_for_line("TE0308", SOON).await?;

    // It owns the partition again.
    assert_eq!(second.terminate(SOON).await?.code(), Some(0));
    owners(1).await?;
    first.wait_for_line("reading again", SOON).await?;
    audited(&["first", "second"], more).await?;
    let logs = ["first", "second"].map(|log| world.instance_audit_log(log).display().to_string());
    // What the second did after the lost part is in both logs now.
    let verified = world.taskctl(&["audit", "verify", "--allow-overlap", &logs[0], &logs[1]]).await?;
    assert_eq!(verified.code, Some(0), "{verified:?}");
    assert!(!verified.stdout.contains("are in no log"), "{verified:?}");
    let twice = world.taskctl(&["audit", "verify", &logs[0], &logs[0]]).await?;
    assert!(twice.code == Some(1) && twice.stderr.contains("name each log once"), "{twice:?}");
    Ok(())
}

/// Waits until the logs of these instances have that many events together.
async fn audited_in(world: &World, logs: &[&str], count: usize) -> Result<()> {
    eventually("all to be audited", SOON, async || {
        let mut ids = BTreeSet::new();
        for log in logs {
            let path = world.instance_audit_log(log);
            let lines = if path.exists() { harness::read_audit_log(&path)? } else { Vec::new() };
            ids.extend(lines.iter().map(|line| text(&line["event_id"])));
        }
        Ok((ids.len() == count).then_some(()))
    })
    .await
}

/// The recipe of docs/audit-log.md: the log of an instance is lost for good, and the others write what theirs lack.
#[tokio::test(flavor = "multi_thread")]
async fn what_only_a_lost_audit_log_had_is_written_again_after_the_group_is_moved_back() -> Outcome {
    let _alone = alone().await;
    let world = World::without_topics().await?;
    create_topic(&world.broker.bootstrap(), EVENTS, 2).await?;
    world.create_topics().await?;
    let (_service, api) = world.start_api().await?;
    let lines = async |logs: &[&str], count: usize| audited_in(&world, logs, count).await;
    let mut count = 0;
    let mut create = async || -> Result<usize> {
        for number in 0..20 {
            api.create(&number.to_string()).await?;
        }
        count += 20;
        Ok(count)
    };
    let start =
        |name: &str| world.instance("audit-service", name).env("LEASE_MS", LONG_LEASE.as_millis()).start();
    let mut first = start("first")?;
    lines(&["first"], create().await?).await?;
    let mut second = start("second")?;
    eventually("both to own one", SOON, async || {
        let shares = Group::read(&world, "audit-service").await?.shares();
        Ok((shares.len() == 2 && shares.values().sum::<usize>() == 2).then_some(()))
    })
    .await?;
    let all = create().await?;
    lines(&["first", "second"], all).await?;
    assert_eq!(first.terminate(SOON).await?.code(), Some(0));
    std::fs::remove_file(world.instance_audit_log("first"))?;
    assert_eq!(second.terminate(SOON).await?.code(), Some(0));
    let reset = ["offsets", "reset", "audit-service", "--to", "earliest", "--execute"];
    // Refused while an owner that could not release seems alive.
    let moved = async || Ok((world.taskctl(&reset).await?.code == Some(0)).then_some(()));
    eventually("the group to be moved back", SOON, moved).await?;
    second.restart()?;
    lines(&["second"], all).await?;
    // A third that never had anything: with the second, the audit log is whole.
    assert_eq!(second.terminate(SOON).await?.code(), Some(0));
    let mut third = start("third")?;
    let all = create().await?;
    lines(&["second", "third"], all).await?;
    assert_eq!(third.terminate(SOON).await?.code(), Some(0));
    let logs = ["second", "third"].map(|log| world.instance_audit_log(log).display().to_string());
    let verified = world.taskctl(&["audit", "verify", "--allow-overlap", &logs[0], &logs[1]]).await?;
    assert_eq!(verified.code, Some(0), "{verified:?}");
    assert!(verified.stdout.contains("fill a hole"), "{verified:?}");
    assert!(!verified.stdout.contains("are in no log"), "{verified:?}");
    Ok(())
}
