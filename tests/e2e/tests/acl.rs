//! SC-10: an operator forgets an ACL. The service that lacks a right says which one, on which topic, waits,
//! and goes on automatically once it is granted.
//!
//! Only with `E2E_BROKER=kafka`: the dev broker has no ACLs. All clients are one user here, as it is the
//! topic's ACL that counts: a topic without any is open to all.

use harness::{
    Api, Broker, DLQ, EVENTS, KafkaTools, OFFSETS, Outcome, Result, SOON, Service, World, eventually,
};

const AUTHORIZER: [(&str, &str); 2] = [
    ("authorizer.class.name", "org.apache.kafka.metadata.authorizer.StandardAuthorizer"),
    ("allow.everyone.if.no.acl.found", "true"),
];

/// Lets everybody do this with the topic, and nothing else.
async fn allow_only(tools: &KafkaTools, topic: &str, operations: &[&str]) -> Result<()> {
    let mut args = vec!["--add", "--allow-principal", "User:ANONYMOUS", "--topic", topic];
    args.extend(operations.iter().flat_map(|operation| ["--operation", operation]));
    tools.run("org.apache.kafka.tools.AclCommand", &args).await?;
    Ok(())
}

/// Takes the topic's ACLs away, so that it is open to all.
async fn open(tools: &KafkaTools, topic: &str) -> Result<()> {
    tools.run("org.apache.kafka.tools.AclCommand", &["--remove", "--force", "--topic", topic]).await?;
    Ok(())
}

async fn names(service: &mut Service, topic: &str, grant: &str) -> Result<()> {
    let what = format!("a line that names {topic} and says: {grant}");
    let told = async || {
        let lines = service.history();
        Ok(lines.iter().any(|line| line.contains(topic) && line.contains(grant)).then_some(()))
    };
    eventually(&what, SOON, told).await?;
    assert!(!service.has_ended()?, "it waits");
    Ok(())
}

async fn audited(world: &World, lines: usize) -> Result<()> {
    let there = async || Ok((world.audit_log()?.len() == lines).then_some(()));
    eventually(&format!("{lines} lines in the audit log"), SOON, there).await?;
    Ok(())
}

async fn waits_for(client: &Api, text: &str) -> Result<()> {
    let told = async || {
        let answer = harness::http()?.get(format!("{}/readyz", client.url())).send().await?;
        Ok(answer.text().await?.contains(text).then_some(()))
    };
    eventually(&format!("{text:?} in /readyz"), SOON, told).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_right_that_is_missing_is_named_and_waited_for() -> Outcome {
    let Some(broker) = Broker::start_kafka_with(&AUTHORIZER).await? else { return Ok(()) };
    let world = World::on(broker).await?;
    let tools = world.kafka_tools().unwrap();

    // The API may not write to the topic of events, but takes tasks.
    allow_only(&tools, EVENTS, &["Read", "Describe"]).await?;
    let (mut api, client) = world.start_api().await?;
    client.create("before the grant").await?;
    names(&mut api, EVENTS, "grant Write").await?;
    waits_for(&client, "grant Write").await?;
    open(&tools, EVENTS).await?;
    client.delivered().await?;

    // A consumer may not read the events.
    allow_only(&tools, EVENTS, &["Write", "Describe"]).await?;
    let mut audit = world.program("audit-service").start()?;
    names(&mut audit, EVENTS, "grant Read").await?;
    open(&tools, EVENTS).await?;
    audited(&world, 1).await?;

    // It may not see how the offsets topic is configured; then not read it; then not claim in it.
    assert!(audit.terminate(SOON).await?.success());
    let all = ["DescribeConfigs", "Read", "Write"];
    for (operations, grant) in
        [(&all[1..], "grant DescribeConfigs"), (&[all[0], all[2]], "grant Read"), (&all[..2], "grant Write")]
    {
        allow_only(&tools, OFFSETS, operations).await?;
        audit.restart()?;
        names(&mut audit, OFFSETS, grant).await?;
        open(&tools, OFFSETS).await?;
    }
    client.create("after the claim").await?;
    audited(&world, 2).await?;

    // A dead letter cannot be written: the event waits, and is not given up.
    allow_only(&tools, DLQ, &["Read", "Describe"]).await?;
    world.produce_values(&[Some(b"poison")]).await?;
    names(&mut audit, DLQ, "grant Write").await?;
    client.create("behind the poison").await?;
    client.delivered().await?;
    assert_eq!(world.audit_log()?.len(), 2, "nothing behind the poison is handled before it");
    open(&tools, DLQ).await?;
    audited(&world, 3).await?;
    Ok(())
}
