//! Adopted orphans are reaped. A single test, since it makes the whole test process a subreaper.

#![expect(clippy::unwrap_used, reason = "a panic in a test is a failed test")]

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use kiloclaw_agent::process::children::{Child, Children};
use rustix::process::{getpid, set_child_subreaper};

/// Long enough for a shell to start on a busy machine.
const AMPLE: Duration = Duration::from_mins(1);

fn sh(children: &Children, script: &str) -> Child {
    children.spawn(Command::new("sh").args(["-c", script]).stdout(Stdio::piped())).unwrap()
}

fn output(child: &mut Child) -> String {
    let mut text = String::new();
    child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    text.trim().to_owned()
}

/// Waits until `done` is true; checks it whenever a short-lived child ends.
fn eventually(children: &Children, what: &str, done: impl Fn() -> bool) {
    let deadline = Instant::now() + AMPLE;
    while !done() {
        assert!(Instant::now() < deadline, "{what}");
        let pause = children.spawn(Command::new("sleep").arg("0.02")).unwrap();
        pause.wait_until(deadline).unwrap().unwrap();
    }
}

fn exists(pid: &str) -> bool {
    Path::new("/proc").join(pid).exists()
}

/// The letter of a process's state; `Z` is a zombie.
fn state(pid: &str) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

#[test]
fn orphans_are_reaped_and_children_are_left_to_their_owners() {
    set_child_subreaper(Some(getpid())).unwrap();
    let children = Children::adopting();

    // The shell ends before its background process.
    let mut parent = sh(&children, "sleep 0.2 >&- 2>&- & echo $!");
    let orphan = output(&mut parent);
    assert!(parent.wait_until(Instant::now() + AMPLE).unwrap().unwrap().success());
    eventually(&children, "the orphan is reaped", || {
        children.reap_orphans();
        !exists(&orphan)
    });

    // An ended child keeps its status, however often orphans are reaped.
    let failing = sh(&children, "exit 7");
    let killed = sh(&children, "kill -9 $$");
    let failing_id = failing.id().to_string();
    eventually(&children, "the child ends", || failing.has_ended() && killed.has_ended());
    for _ in 0..3 {
        children.reap_orphans();
    }
    assert_eq!(state(&failing_id), Some('Z'), "left for its owner");
    assert_eq!(failing.try_wait().unwrap().unwrap().code(), Some(7));
    assert_eq!(failing.try_wait().unwrap().unwrap().code(), Some(7), "same status again");
    assert_eq!(killed.try_wait().unwrap().unwrap().code(), None);
    assert!(!exists(&failing_id));

    // An orphan that ended behind a child is reaped together with the child.
    let mut parent = sh(&children, "sleep 0.1 >&- 2>&- & echo $!");
    let first = sh(&children, "exit 0");
    let orphan = output(&mut parent);
    assert!(parent.wait_until(Instant::now() + AMPLE).unwrap().is_some());
    // Without `eventually`, whose children would cause the orphan to be reaped.
    while state(&orphan).is_some_and(|state| state != 'Z') || !first.has_ended() {
        std::thread::yield_now();
    }
    children.reap_orphans();
    assert_eq!(state(&orphan), Some('Z'), "a child goes first");
    assert!(first.try_wait().unwrap().is_some());
    assert!(!exists(&orphan));

    // A dropped child is reaped like an orphan.
    let given_up = sh(&children, "exit 0");
    let id = given_up.id().to_string();
    drop(given_up);
    eventually(&children, "what was given up is reaped", || {
        children.reap_orphans();
        !exists(&id)
    });

    // Concurrent reaping loses no status.
    let reaper = children.clone();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || {
        while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
            reaper.reap_orphans();
        }
    });
    for code in 0..200 {
        let child = sh(&children, &format!("(exit 3 &) ; exit {}", code % 100));
        let status = child.wait_until(Instant::now() + AMPLE).unwrap().unwrap();
        assert_eq!(status.code(), Some(code % 100));
    }
    drop(stop);
    thread.join().unwrap();
}
