//! A process that is killed at any moment leaves everything that it had acknowledged.
//!
//! The killed process is this very test program: started with a path in [`CHILD`], its one test writes to the
//! store there and says on its standard output what was acknowledged.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use oncegate::protocol::{
    Answer, Fingerprint, Op, Origin, Owner, RecordId, Response, Retention, State, Verdict,
};
use oncegate::store::{Embedded, Store, system_clock};

const CHILD: &str = "ONCEGATE_TEST_KILLED_CHILD";
const ROUNDS: u64 = 6;
const WRITERS: u64 = 32;
/// Lines read before the child is killed, at most.
const LINES: u64 = 3000;

#[test]
fn whatever_was_acknowledged_before_a_kill_is_there_after_it() {
    if let Ok(path) = std::env::var(CHILD) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        return runtime.block_on(write_until_killed(Path::new(&path)));
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.db");
    let (mut claimed, mut completed) = (BTreeSet::new(), BTreeSet::new());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for round in 0..ROUNDS {
        let lines = u64::from(std::process::id())
            .wrapping_mul(0x9e37_79b9)
            .wrapping_add(round * 977)
            % LINES;
        println!("round {round}: killed after {lines} lines");
        for line in acknowledged_until_killed(&path, lines) {
            let (kind, n) = line.split_once(' ').unwrap();
            let n: u64 = n.parse().unwrap();
            match kind {
                "claimed" => claimed.insert(n),
                "completed" => completed.insert(n),
                other => panic!("the child says {other}"),
            };
        }
        runtime.block_on(expect(&path, &claimed, &completed));
    }
    assert!(
        completed.len() > 10,
        "only {} completions were seen",
        completed.len()
    );
}

/// Starts the child on the file and kills it after so many lines; returns all whole lines that it wrote.
fn acknowledged_until_killed(path: &Path, lines: u64) -> Vec<String> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "whatever_was_acknowledged_before_a_kill_is_there_after_it",
            "--nocapture",
        ])
        .env(CHILD, path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut heard = Vec::new();
    let mut line = String::new();
    while output.read_line(&mut line).unwrap() > 0 {
        // A line that a kill cut off was not acknowledged to anybody.
        if line.ends_with('\n') && (line.starts_with("claimed ") || line.starts_with("completed "))
        {
            heard.push(line.trim_end().to_owned());
        }
        if heard.len() as u64 == lines {
            child.kill().unwrap();
        }
        line.clear();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    heard
}

async fn expect(path: &Path, claimed: &BTreeSet<u64>, completed: &BTreeSet<u64>) {
    let (store, _) = Embedded::open(path, None, 1 << 40, system_clock()).unwrap();
    for n in claimed {
        let record = store.read(id(*n)).await.unwrap();
        let record = record.unwrap_or_else(|| panic!("claim {n} is gone"));
        match record.state {
            State::Claimed(claim) => {
                assert!(!completed.contains(n), "completion {n} is gone");
                assert_eq!(claim.seen.owner, Owner(n.wrapping_add(1).into()));
            }
            State::Completed(found) => assert_eq!(found.answer, answer(*n)),
            State::Unknown(_) | State::Expired => panic!("nobody said that of {n}"),
        }
    }
    store.close().await;
}

async fn write_until_killed(path: &Path) {
    let (store, _) = Embedded::open(path, None, 1 << 40, system_clock()).unwrap();
    let store = Arc::new(store);
    // Numbers go on where the child before was killed, or claims would meet its claims.
    let next = Arc::new(AtomicU64::new(u64::from(std::process::id()) << 32));
    let writers = (0..WRITERS).map(|_| {
        let (store, next) = (Arc::clone(&store), Arc::clone(&next));
        tokio::spawn(async move {
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                assert!(matches!(
                    store.apply(id(n), claim(n)).await,
                    Ok(Verdict::Acquired { .. })
                ));
                say(&format!("claimed {n}\n"));
                if n % 5 == 0 {
                    continue;
                }
                assert_eq!(store.apply(id(n), complete(n)).await, Ok(Verdict::Done));
                say(&format!("completed {n}\n"));
            }
        })
    });
    futures_util::future::try_join_all(writers).await.unwrap();
}

/// One write for a line, past the capture of the test program. Fails when nobody reads any more: the parent has
/// failed, and this process must not go on for ever.
fn say(line: &str) {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(line.as_bytes()).unwrap();
    stdout.flush().unwrap();
}

fn id(n: u64) -> RecordId {
    let mut id = [0; 32];
    id[..8].copy_from_slice(&n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    id[8..16].copy_from_slice(&n.to_le_bytes());
    RecordId(id)
}

fn origin(n: u64) -> Origin {
    Origin {
        fingerprint: Fingerprint([n.to_le_bytes()[0]; 32]),
        route: "create-payment".into(),
        reference: Bytes::from(vec![b'r'; 100]),
    }
}

fn claim(n: u64) -> Op {
    Op::Claim {
        owner: Owner(n.wrapping_add(1).into()),
        origin: origin(n),
        lease: Duration::from_secs(15),
        keep: Duration::from_secs(86_400),
    }
}

fn complete(n: u64) -> Op {
    Op::Complete {
        owner: Owner(n.wrapping_add(1).into()),
        origin: origin(n),
        answer: answer(n),
        retention: Retention {
            keep: Duration::from_secs(86_400),
            tombstone: Duration::ZERO,
        },
    }
}

fn answer(n: u64) -> Answer {
    Answer::Stored(Arc::new(Response::new(
        201,
        Vec::new(),
        Bytes::from(n.to_string().repeat(20)),
    )))
}
