//! The instances of a group share its partitions: six of them, with 1, 3, 2, 5 and again 1 instance under load.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use harness::{
    Api, EVENTS, GROUPS, OFFSETS, Outcome, Result, SOON, Service, World, alone, create_topic, eventually,
    read_topic,
};
use serde_json::Value;
use tokio::task::JoinHandle;

const PARTITIONS: usize = 6;
/// After the last change of who lives. It takes 2 to 3 s, which are printed; the rest is for a machine that is busy.
const EVEN_WITHIN: Duration = Duration::from_secs(15);
/// So long that an instance on a busy machine does not seem dead.
const LONG_LEASE: Duration = Duration::from_secs(8);
const HANDED_OVER_WITHIN: Duration = Duration::from_secs(1);

/// What the offsets topic says of one group.
#[derive(Debug, Default)]
struct Group {
    /// The latest claim of each partition, and whether it was released: instance, token.
    owners: BTreeMap<usize, (String, i64, bool)>,
    /// The offset at which each member first joined.
    joined: BTreeMap<String, i64>,
    /// Where partitions were given to an instance by name.
    gifts: Vec<i64>,
    /// How long each of those was nobody's.
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
                    state.gifts.push(record.offset);
                    given
                        .insert(partition, (text(&commit["to"]), record.record.timestamp.timestamp_millis()));
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

/// The claims since `before` are as few as can be, if all that joined had done so before anything was given, and
/// nobody was taken for dead meanwhile.
fn fewest_moves(before: &Group, after: &Group, fewest: usize) {
    let joined = after.joined.iter().filter(|(id, _)| !before.joined.contains_key(*id)).map(|(_, at)| *at);
    let last_joined = joined.max().unwrap_or(0);
    let first_gift = after.gifts.get(before.gifts.len()).copied();
    let (moves, gifts) = (after.claims - before.claims, after.gifts.len() - before.gifts.len());
    println!("{moves} moves, {fewest} at least");
    if moves == gifts && first_gift.is_some_and(|gift| gift > last_joined) {
        assert_eq!(moves, fewest, "{before:?} {after:?}");
    } else {
        assert!(moves >= fewest && moves <= PARTITIONS + fewest, "{before:?} {after:?}");
    }
}

/// Creates tasks until it is aborted.
fn load(api: Api) -> JoinHandle<()> {
    tokio::spawn(async move {
        for number in 0.. {
            if let Err(error) = api.create(&number.to_string()).await {
                panic!("{error}");
            }
            tokio::time::sleep(Duration::from_millis(4)).await;
        }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn six_partitions_are_shared_by_1_3_2_5_and_1_instances_and_nothing_is_lost_or_repeated() -> Outcome {
    let _alone = alone().await;
    let world = World::without_topics().await?;
    create_topic(&world.broker.bootstrap(), EVENTS, i32::try_from(PARTITIONS)?).await?;
    world.create_topics().await?;
    let (_service, api) = world.start_api().await?;
    let load = load(Api::new(api.url())?);
    let mut system = System { world, instances: BTreeMap::new(), ended: Vec::new(), started: 0 };

    system.start(1)?;
    let one = system.even(1).await?;
    assert!(one.iter().all(|group| group.claims == PARTITIONS), "alone it claims each once: {one:?}");

    system.start(2)?;
    let three = system.even(3).await?;
    one.iter().zip(&three).for_each(|(before, after)| fewest_moves(before, after, 4));

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
    for (before, after) in three.iter().zip(&two) {
        let claims = after.claims - before.claims;
        assert!((2..=6).contains(&claims), "{before:?} {after:?}");
    }

    system.start(3)?;
    let five = system.even(5).await?;
    two.iter().zip(&five).for_each(|(before, after)| fewest_moves(before, after, 3));

    // In order, one after the other: what each had is claimed once, and at once.
    for number in [1, 3, 4, 5] {
        let before = system.groups().await?;
        let mut services = system.instances.remove(&number).expect("an instance");
        for service in &mut services {
            assert_eq!(service.terminate(SOON).await?.code(), Some(0));
        }
        let after = system.even_within(EVEN_WITHIN, system.instances.len()).await?;
        for (before, after) in before.iter().zip(&after) {
            let stayed: BTreeSet<_> = after.shares().into_keys().collect();
            let had = before.owners.values().filter(|(id, ..)| !stayed.contains(id)).count();
            assert_eq!(after.claims - before.claims, had, "{before:?} {after:?}");
        }
        system.ended.append(&mut services);
    }

    for group in system.groups().await? {
        let mut pauses = group.pauses;
        pauses.sort_unstable();
        println!("partitions were nobody's for {pauses:?}");
        assert_eq!(pauses.len(), group.gifts.len(), "each was claimed by the one that it was given to");
        assert!(pauses.iter().all(|pause| *pause < HANDED_OVER_WITHIN), "{pauses:?}");
    }

    load.abort();
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
    assert_eq!((count("damaged"), count("repeated"), count("out_of_order")), (0, 0, 0), "{report}");
    assert_eq!(count("lines") - count("in_several"), topic.len(), "{report}");
    println!("{} events, {} of them in two audit logs", topic.len(), count("in_several"));
    let of_killed = |group: usize| -> BTreeMap<usize, i64> {
        let lost = at_kill[group]
            .owners
            .iter()
            .filter(|(partition, owner)| two[group].owners[*partition].0 != owner.0);
        lost.map(|(partition, _)| (*partition, at_kill[group].positions[partition])).collect()
    };
    let lost = of_killed(1);
    for overlap in report["overlaps"].as_array().expect("a list") {
        let partition = usize::try_from(overlap["partition"].as_u64().unwrap()).unwrap();
        let from = lost.get(&partition).unwrap_or_else(|| panic!("nothing was lost here: {overlap}"));
        assert!(overlap["first_offset"].as_i64().unwrap() >= *from, "{overlap} {lost:?}");
    }

    // Notifications: each once, but for what the killed one had written and not committed.
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
    let lost = of_killed(0);
    let repeated: Vec<_> = told.iter().filter(|(_, times)| **times > 1).map(|(id, _)| places[id]).collect();
    println!("{} notifications repeated, of {}", repeated.len(), told.len());
    for (partition, offset) in repeated {
        assert!(lost.get(&partition).is_some_and(|from| offset >= *from), "{partition}/{offset} {lost:?}");
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
    let audited = async |logs: &[&str], count: usize| {
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
    };
    let owners = async |count: usize| {
        eventually("the owners", SOON, async || {
            let shares = Group::read(&world, "audit-service").await?.shares();
            Ok((shares.len() == count && shares.values().sum::<usize>() == 2).then_some(()))
        })
        .await
    };

    let mut first = world.instance("audit-service", "first").start()?;
    owners(1).await?;
    let mut second = world.instance("audit-service", "second").start()?;
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
    first.wait_for_line("TE0307", SOON).await?;

    // It owns the partition again.
    assert_eq!(second.terminate(SOON).await?.code(), Some(0));
    owners(1).await?;
    first.wait_for_line("reading again", SOON).await?;
    audited(&["first", "second"], more).await?;
    let logs = ["first", "second"].map(|log| world.instance_audit_log(log).display().to_string());
    let verified = world.taskctl(&["audit", "verify", &logs[0], &logs[1]]).await?;
    assert_eq!(verified.code, Some(0), "{verified:?}");
    Ok(())
}
