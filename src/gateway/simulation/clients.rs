//! Clients as their libraries make them: each wants one operation done, gives up waiting, and tries again.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{sleep, timeout};

use super::history::{Event, Heard};
use super::link::End;
use super::plan::{Caller, Fault, Wanted};
use super::upstream::ATTEMPT;
use super::world::World;

/// Tries until there is nothing more to learn, or no attempt is left.
pub async fn call(world: Arc<World>, caller: Caller) {
    sleep(caller.starts).await;
    for nth in 0..caller.attempts {
        let attempt = caller.number * 100 + nth;
        let mut draw = world.draw("caller", attempt);
        let host = world.any_host(&mut draw);
        let patience = draw.ms_to_one(200, &[1_000, 8_000, 20_000]);
        let heard = Attempt {
            world: Arc::clone(&world),
            attempt,
            wants: caller.wants,
        }
        .run(host, patience)
        .await;
        if heard.is_some_and(|heard| is_final(&heard)) {
            return;
        }
        sleep(draw.ms_to_one(1, &[50, 2_000, 10_000])).await;
    }
}

/// Whether a client would not ask again.
fn is_final(heard: &Heard) -> bool {
    let is_answer = matches!(
        heard.idempotency.as_str(),
        "executed" | "replayed" | "unrecorded"
    );
    heard.is_whole && (is_answer || heard.problem == "key-reused")
}

/// One request.
pub struct Attempt {
    pub world: Arc<World>,
    pub attempt: u64,
    pub wants: Wanted,
}

impl Attempt {
    /// Sends it to this host; `None` where the client left before there was an answer.
    pub async fn run(self, host: usize, patience: Duration) -> Option<Heard> {
        let attempt = self.attempt;
        let Some((name, end)) = self.world.connect(host, attempt) else {
            self.world.history.add(Event::NotConnected { attempt });
            return None;
        };
        self.world.history.add(Event::Sent {
            attempt,
            wants: self.wants,
            host: name,
        });
        let heard = timeout(patience, self.exchange(end)).await.ok().flatten();
        self.world.history.add(match heard.clone() {
            Some(answer) => Event::Heard { attempt, answer },
            None => Event::HungUp { attempt },
        });
        heard
    }

    async fn exchange(&self, mut end: End) -> Option<Heard> {
        let mut draw = self.world.draw("exchange", self.attempt);
        let Wanted { operation, payload } = self.wants;
        let body = format!(
            "scope {} key {} payload {payload}",
            operation.scope, operation.key
        );
        let message = format!(
            "POST /pay HTTP/1.1\r\nhost: pay\r\nidempotency-key: k{}\r\nauthorization: s{}\r\n{ATTEMPT}{}\r\n\
             connection: close\r\ncontent-length: {}\r\n\r\n{body}",
            operation.key,
            operation.scope,
            self.attempt,
            body.len(),
        );
        let hangs_up = self.world.has(Fault::HangUps) && draw.percent(30);
        if hangs_up && draw.percent(30) {
            let cut = draw.number(1..=message.len() as u64 - 1);
            let cut = usize::try_from(cut).expect("a message is short");
            end.write_all(&message.as_bytes()[..cut]).await.ok()?;
            sleep(draw.ms(0..=50)).await;
            return None;
        }
        if draw.percent(20) {
            let cut = message.len() - usize::try_from(draw.number(1..=30)).expect("small");
            end.write_all(&message.as_bytes()[..cut]).await.ok()?;
            sleep(draw.ms(0..=20)).await;
            end.write_all(&message.as_bytes()[cut..]).await.ok()?;
        } else {
            end.write_all(message.as_bytes()).await.ok()?;
        }
        let mut bytes = Vec::new();
        if hangs_up {
            let stays = draw.ms_to_one(0, &[10, 1_000]);
            timeout(stays, end.read_to_end(&mut bytes))
                .await
                .ok()?
                .ok()?;
        } else {
            end.read_to_end(&mut bytes).await.ok()?;
        }
        read(&String::from_utf8_lossy(&bytes))
    }
}

/// What an answer says; `None` where there is not even a head.
fn read(message: &str) -> Option<Heard> {
    let (head, body) = message.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let line = |name: &str| {
        let mut lines = head.lines().filter_map(|line| line.split_once(": "));
        let found = lines.find(|(found, _)| found.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.to_owned())
    };
    let length = line("content-length").and_then(|length| length.parse::<usize>().ok());
    let (content, is_whole) = match length {
        Some(length) => (body.to_owned(), body.len() == length),
        None => {
            // Chunks, whose sizes are nobody's concern here.
            let is_whole = body.ends_with("0\r\n\r\n");
            ("at length".to_owned(), is_whole)
        }
    };
    let mut heard = Heard {
        status,
        idempotency: line("idempotency-status").unwrap_or_default(),
        is_whole,
        ..Heard::default()
    };
    if line("content-type").as_deref() == Some("application/problem+json") {
        let document: Value = serde_json::from_str(&content).unwrap_or_default();
        let text = |name: &str| document[name].as_str().unwrap_or_default().to_owned();
        heard.problem = text("type")
            .rsplit(':')
            .next()
            .unwrap_or_default()
            .to_owned();
        heard.state = text("operation_state");
        heard.safe_new_key = document["safe_new_key"] == true;
    } else {
        let answer = line("x-answer").unwrap_or_default();
        heard.content = format!("{answer}: {content}");
    }
    Some(heard)
}
