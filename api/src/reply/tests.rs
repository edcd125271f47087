use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::task::Wake;
use std::thread;
use std::time::Duration;

use proptest::prelude::*;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::*;

/// Counts its wake-ups.
#[derive(Default)]
struct Counter(AtomicUsize);

impl Wake for Counter {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Counter {
    fn take(&self) -> usize {
        self.0.swap(0, Ordering::SeqCst)
    }
}

fn poll<T>(answer: &mut Answer<T>, counter: &Arc<Counter>) -> Poll<Result<T, Closed>> {
    let waker = Waker::from(Arc::clone(counter));
    Pin::new(answer).poll(&mut Context::from_waker(&waker))
}

#[test]
fn a_group_wakes_one_request_of_a_thread_and_that_one_all_others() {
    let desk = Desk::new();
    let (replies, mut answers): (Vec<_>, Vec<_>) = (0..5).map(|_| desk.open()).unzip();
    let counters: Vec<Arc<Counter>> = (0..5).map(|_| Arc::default()).collect();
    for (answer, counter) in answers.iter_mut().zip(&counters) {
        assert!(poll(answer, counter).is_pending());
    }
    let mut group = Group::default();
    for (number, reply) in replies.into_iter().enumerate() {
        group.send(reply, number);
    }
    let woken = || counters.iter().map(|counter| counter.take()).collect::<Vec<_>>();
    assert_eq!(woken(), [0; 5], "not before the group is finished");
    group.finish();
    let first = woken();
    assert_eq!(first.iter().sum::<usize>(), 1, "{first:?}");
    let leader = first.iter().position(|times| *times == 1).unwrap();
    assert_eq!(poll(&mut answers[leader], &counters[leader]), Poll::Ready(Ok(leader)));
    let others = woken();
    assert!(others.iter().enumerate().all(|(number, times)| *times == usize::from(number != leader)));
    for (number, answer) in answers.iter_mut().enumerate().filter(|(number, _)| *number != leader) {
        assert_eq!(poll(answer, &counters[number]), Poll::Ready(Ok(number)));
    }
}

#[test]
fn whoever_was_woken_for_all_and_goes_away_wakes_the_others() {
    let desk = Desk::new();
    let (replies, answers): (Vec<_>, Vec<_>) = (0..3).map(|_| desk.open()).unzip();
    let mut waiting: Vec<_> = answers.into_iter().map(|answer| (answer, Arc::<Counter>::default())).collect();
    for (answer, counter) in &mut waiting {
        assert!(poll(answer, counter).is_pending());
    }
    let mut group = Group::default();
    replies.into_iter().for_each(|reply| group.send(reply, ()));
    drop(group);
    let leader = waiting.iter().position(|(_, counter)| counter.take() == 1).unwrap();
    drop(waiting.remove(leader));
    for (answer, counter) in &mut waiting {
        assert_eq!((counter.take(), poll(answer, counter)), (1, Poll::Ready(Ok(()))));
    }
}

#[test]
fn an_unsent_reply_ends_its_answer_at_once() {
    let desk = Desk::<()>::new();
    let (reply, mut answer) = desk.open();
    let counter = Arc::default();
    assert!(poll(&mut answer, &counter).is_pending());
    drop(reply);
    assert_eq!((counter.take(), poll(&mut answer, &counter)), (1, Poll::Ready(Err(Closed))));
}

#[derive(Debug, Clone)]
enum Step {
    Open,
    Poll(usize),
    Forget(usize),
    Send(usize),
    Lose(usize),
    Finish,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Open),
        3 => any::<usize>().prop_map(Step::Poll),
        1 => any::<usize>().prop_map(Step::Forget),
        4 => any::<usize>().prop_map(Step::Send),
        1 => any::<usize>().prop_map(Step::Lose),
        2 => Just(Step::Finish),
    ]
}

proptest! {
    /// In any order of what both sides do, each request gets its own reply, by no more than its wake-ups.
    #[test]
    fn no_reply_is_lost_or_swapped(steps in prop::collection::vec(step(), 0..200)) {
        let desk = Desk::new();
        let mut group = Group::default();
        let mut replies: Vec<(usize, Reply<usize>)> = Vec::new();
        let mut answers: HashMap<usize, (Answer<usize>, Arc<Counter>)> = HashMap::new();
        let mut expected: HashMap<usize, Result<usize, Closed>> = HashMap::new();
        let mut opened = 0;
        for step in steps {
            match step {
                Step::Open => {
                    let (reply, answer) = desk.open();
                    replies.push((opened, reply));
                    answers.insert(opened, (answer, Arc::default()));
                    opened += 1;
                }
                Step::Poll(any) => {
                    let mut known: Vec<usize> = answers.keys().copied().collect();
                    known.sort_unstable();
                    if let Some(number) = known.get(any % known.len().max(1)) {
                        let (answer, counter) = answers.get_mut(number).unwrap();
                        let wanted = expected.get(number).map_or(Poll::Pending, |result| Poll::Ready(*result));
                        prop_assert_eq!(poll(answer, counter), wanted);
                        if wanted.is_ready() {
                            answers.remove(number);
                        }
                    }
                }
                Step::Forget(any) => {
                    let mut known: Vec<usize> = answers.keys().copied().collect();
                    known.sort_unstable();
                    if let Some(number) = known.get(any % known.len().max(1)) {
                        answers.remove(number);
                    }
                }
                Step::Send(any) if !replies.is_empty() => {
                    let (number, reply) = replies.swap_remove(any % replies.len());
                    group.send(reply, number);
                    expected.insert(number, Ok(number));
                }
                Step::Lose(any) if !replies.is_empty() => {
                    let (number, reply) = replies.swap_remove(any % replies.len());
                    drop(reply);
                    expected.insert(number, Err(Closed));
                }
                Step::Finish => group.finish(),
                Step::Send(_) | Step::Lose(_) => {}
            }
        }
        // What runs by wake-ups alone comes to its end.
        let mut asked: Vec<usize> = Vec::new();
        for (number, (answer, counter)) in &mut answers {
            counter.take();
            if poll(answer, counter).is_ready() {
                prop_assert!(expected.contains_key(number));
                asked.push(*number);
            }
        }
        answers.retain(|number, _| !asked.contains(number));
        for (number, reply) in replies.drain(..) {
            group.send(reply, number);
        }
        group.finish();
        while !answers.is_empty() {
            let woken: Vec<usize> =
                answers.iter().filter(|(_, (_, counter))| counter.take() > 0).map(|(number, _)| *number).collect();
            prop_assert!(!woken.is_empty(), "{} are never woken", answers.len());
            for number in woken {
                let (answer, counter) = answers.get_mut(&number).unwrap();
                prop_assert_eq!(poll(answer, counter), Poll::Ready(Ok(number)));
                answers.remove(&number);
            }
        }
    }
}

#[test]
fn between_threads_each_request_gets_its_own_reply() {
    thread_local! {
        static DESK: Desk<usize> = const { Desk::new() };
    }
    let (jobs, queue) = mpsc::channel::<(usize, Reply<usize>)>();
    let writer = thread::spawn(move || {
        let mut answered = 0;
        while let Ok(first) = queue.recv() {
            let mut group = Group::default();
            for (number, reply) in std::iter::once(first).chain(queue.try_iter()) {
                group.send(reply, number);
                answered += 1;
            }
            group.finish();
        }
        answered
    });
    let workers: Vec<_> = (0..2)
        .map(|worker| {
            let jobs = jobs.clone();
            thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
                runtime.block_on(async {
                    let mut clients = JoinSet::new();
                    for client in 0..32 {
                        let jobs = jobs.clone();
                        clients.spawn(async move {
                            for request in 0..200 {
                                let number = (worker * 100 + client) * 1_000 + request;
                                let (reply, answer) = DESK.with(Desk::open);
                                jobs.send((number, reply)).unwrap();
                                if request % 17 == client % 17 {
                                    // One that goes away in the middle of it.
                                    let _ = timeout(Duration::from_micros(20), answer).await;
                                } else {
                                    let answer = timeout(Duration::from_secs(30), answer).await;
                                    assert_eq!(answer.expect("a reply was lost"), Ok(number));
                                }
                            }
                        });
                    }
                    while let Some(client) = clients.join_next().await {
                        client.unwrap();
                    }
                });
            })
        })
        .collect();
    drop(jobs);
    workers.into_iter().for_each(|worker| worker.join().unwrap());
    assert_eq!(writer.join().unwrap(), 2 * 32 * 200);
}
