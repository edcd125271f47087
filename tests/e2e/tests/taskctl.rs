//! The operator's command where something is missing: one clear line with its code, and exit code 1; and the view
//! that is shown again and again.

use harness::{Outcome, Program, Result, SOON, Signal, World, free_port};

/// Runs the command, which has to fail with that code in one line.
async fn fails(program: Program, args: &str, code: &str) -> Result<()> {
    let ran = program.args(&args.split(' ').collect::<Vec<_>>()).run(SOON).await?;
    assert_eq!(ran.code, Some(1), "{args}: {ran:?}");
    let errors: Vec<&str> = ran.stderr.lines().filter(|line| line.starts_with("error: ")).collect();
    let [error] = errors.as_slice() else { panic!("{args}: one line, not {ran:?}") };
    assert!(error.ends_with(&format!(" [{code}]")), "{args}: {error}");
    assert_eq!(ran.stderr.lines().last(), Some(*error), "{args}: {ran:?}");
    Ok(())
}

#[tokio::test]
async fn what_is_missing_is_one_line_with_its_code() -> Outcome {
    let world = World::start().await?;
    let taskctl = || world.program("taskctl");
    let dead = format!("127.0.0.1:{}", free_port()?);
    let nowhere = || taskctl().env("KAFKA_BOOTSTRAP_SERVERS", &dead);
    for args in [
        "topics create",
        "topics describe",
        "groups list",
        "groups describe",
        "groups describe audit-service",
        "offsets reset audit-service --to earliest",
        "dlq list",
        "dlq show 0/0",
        "dlq redrive --all",
        "tail --topic task-events-dlq",
        "trace 01a216b2-569b-7137-befb-bca62242f665",
    ] {
        fails(nowhere(), args, "TE0501").await?;
    }
    // What they cannot see is in its place of the answer.
    fails(nowhere(), "status", "TE0515").await?;
    fails(nowhere(), "doctor", "TE0513").await?;

    fails(taskctl(), "topics describe nothing", "TE0502").await?;
    fails(taskctl(), "tail --topic nothing", "TE0502").await?;
    for args in ["groups list", "groups describe", "offsets reset audit-service --to earliest"] {
        fails(taskctl().env("OFFSETS_TOPIC", "nothing"), args, "TE0502").await?;
    }
    for args in ["dlq list", "dlq show 0/0", "dlq redrive --all"] {
        fails(taskctl().env("DLQ_TOPIC", "nothing"), args, "TE0502").await?;
    }

    fails(taskctl(), "groups describe nobody", "TE0507").await?;
    fails(taskctl(), "offsets reset nobody --to earliest", "TE0507").await?;
    fails(taskctl(), "dlq show 0/0", "TE0512").await?;
    // A file that is not there, and one that is none. Tests may run as root, whom no right stops.
    fails(taskctl(), &format!("audit verify {}", world.path("none.log").display()), "TE0511").await?;
    std::fs::create_dir(world.path("folder.log")).unwrap();
    fails(taskctl(), &format!("audit verify {}", world.path("folder.log").display()), "TE0511").await?;
    Ok(())
}

#[tokio::test]
async fn a_status_that_is_watched_is_shown_again_and_ends_with_a_signal() -> Outcome {
    let mut world = World::start().await?;
    let (_service, api) = world.start_api().await?;
    let address = api.url().trim_start_matches("http://").to_owned();
    let mut watching = world.program("taskctl").args(&["status", "--watch", "--api", &address]).start()?;
    let line = format!("Task API {address}: ready, Kafka reachable");
    watching.wait_for_line(&line, SOON).await?;
    // A part that cannot be seen for a while ends nothing.
    world.broker.kill9();
    watching.wait_for_line("cannot be seen: ", SOON).await?;
    world.broker.restart().await?;
    let before = watching.count(&line);
    let shown_again = async || Ok((watching.count(&line) > before).then_some(()));
    harness::eventually("the status once more", SOON, shown_again).await?;
    watching.signal(Signal::INT)?;
    assert!(watching.wait_exit(SOON).await?.success());
    Ok(())
}
