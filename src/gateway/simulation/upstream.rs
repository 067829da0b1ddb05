//! An upstream that executes what reaches it, and does about its answers whatever a seed makes it do. It recognises no
//! key: what is sent twice is executed twice.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::future::{BoxFuture, FutureExt, pending};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::sleep;

use super::chance::Draw;
use super::history::Event;
use super::link::{End, link};
use super::plan::Fault;
use super::world::World;
use crate::process::Here;
use crate::upstream::{Network, Scripted};

/// The header line by which the parts of the simulation know an attempt.
pub const ATTEMPT: &str = "x-attempt: ";

/// The way from the gateways to the upstream.
pub struct Wires(pub Arc<World>);

impl Network for Wires {
    fn connect(&self, _: SocketAddr) -> BoxFuture<'static, io::Result<Box<dyn Scripted>>> {
        let world = Arc::clone(&self.0);
        let attempt = Here::current().map_or(0, |here| here.request);
        async move {
            let mut draw = world.draw("connect", attempt);
            let after = draw.ms(0..=3);
            let mut is_broken = false;
            if world.has(Fault::Refuses) && draw.percent(25) {
                match draw.number(0..=2) {
                    0 => return Err(io::ErrorKind::ConnectionRefused.into()),
                    1 => pending().await,
                    _ => is_broken = true,
                }
            }
            sleep(after).await;
            let (near, far) = link();
            let history = Arc::clone(&world.history);
            let near = near.tapped(Box::new(move |bytes| {
                if let Some(attempt) = attempt_in(&String::from_utf8_lossy(bytes)) {
                    history.add(Event::Dispatched { attempt });
                }
            }));
            if is_broken {
                far.reset();
            } else {
                tokio::spawn(serve(world, far));
            }
            Ok(Box::new(near) as Box<dyn Scripted>)
        }
        .boxed()
    }
}

/// The number of the attempt in a request's head.
fn attempt_in(text: &str) -> Option<u64> {
    let at = text.find(ATTEMPT)? + ATTEMPT.len();
    let digits: String = text[at..]
        .chars()
        .take_while(char::is_ascii_digit)
        .collect();
    digits.parse().ok()
}

/// Serves a connection to its end.
async fn serve(world: Arc<World>, mut end: End) {
    // Nothing in a simulation is so long that it would be too much to hold.
    while let Some((attempt, payload)) = request(&mut end).await {
        let draw = world.draw("upstream", attempt);
        let script = Script {
            world: Arc::clone(&world),
            attempt,
            payload,
            draw,
        };
        match script.answer(end).await {
            Some(same) => end = same,
            None => return,
        }
    }
}

/// Reads one request; `None` where there is none any more.
async fn request(end: &mut End) -> Option<(u64, String)> {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).to_ascii_lowercase();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.split("content-length: ").nth(1)?;
            let length: usize = length.lines().next()?.trim().parse().ok()?;
            if body.len() >= length {
                return Some((attempt_in(head)?, body.to_owned()));
            }
        }
        if end.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
}

/// What the upstream does about one request.
struct Script {
    world: Arc<World>,
    attempt: u64,
    payload: String,
    draw: Draw,
}

impl Script {
    /// Gives the connection back where it may be used again.
    async fn answer(mut self, mut end: End) -> Option<End> {
        let thinks = self.draw.ms(1..=60);
        sleep(thinks).await;
        if self.happens(Fault::Resets) {
            self.execute_perhaps();
            match self.draw.percent(50) {
                true => end.reset(),
                false => drop(end),
            }
            return None;
        }
        if self.happens(Fault::AnswersLate) {
            let before = self.draw.percent(50);
            if before {
                self.execute();
            }
            sleep(self.draw.ms(2_000..=30_000)).await;
            if !before {
                self.execute();
            }
            return self.say(end, 201).await;
        }
        if self.happens(Fault::Releases) {
            let status = self.draw.one(&[401, 425, 429]);
            return self.say(end, status).await;
        }
        if self.happens(Fault::Unsure) {
            self.execute_perhaps();
            let status = self.draw.one(&[408, 502, 503, 504]);
            return self.say(end, status).await;
        }
        if self.happens(Fault::Fails) {
            let status = self.draw.one(&[400, 409, 422, 500]);
            if status == 500 {
                self.execute_perhaps();
            }
            return self.say(end, status).await;
        }
        self.execute();
        if self.happens(Fault::Truncates) {
            let whole = self.message(201, false);
            let cut = self.draw.number(1..=whole.len() as u64 - 1);
            let cut = usize::try_from(cut).expect("a message is short");
            let _ = end.write_all(&whole.as_bytes()[..cut]).await;
            self.said(201, false);
            return None;
        }
        if self.happens(Fault::LongAnswers) {
            return self.say_at_length(end).await;
        }
        self.say(end, 201).await
    }

    fn happens(&mut self, fault: Fault) -> bool {
        self.world.has(fault) && self.draw.percent(30)
    }

    fn execute(&self) {
        let attempt = self.attempt;
        self.world.history.add(Event::Executed { attempt });
    }

    /// Now, later or never.
    fn execute_perhaps(&mut self) {
        if self.draw.percent(50) {
            return;
        }
        if !self.world.has(Fault::ExecutesLate) {
            return self.execute();
        }
        let (history, attempt) = (Arc::clone(&self.world.history), self.attempt);
        let later = self.draw.ms(10..=40_000);
        tokio::spawn(async move {
            sleep(later).await;
            history.add(Event::Executed { attempt });
        });
    }

    fn message(&self, status: u16, closes: bool) -> String {
        let content = format!("status {status} to r{}: {}", self.attempt, self.payload);
        let close = if closes { "connection: close\r\n" } else { "" };
        format!(
            "HTTP/1.1 {status} It is\r\ncontent-length: {}\r\nx-answer: {}\r\n{close}\r\n{content}",
            content.len(),
            self.attempt,
        )
    }

    fn said(&self, status: u16, is_whole: bool) {
        self.world.history.add(Event::Answered {
            attempt: self.attempt,
            status,
            is_whole,
        });
    }

    async fn say(mut self, mut end: End, status: u16) -> Option<End> {
        let leaves = self.happens(Fault::Leaves);
        let announces = leaves && self.draw.percent(30);
        let message = self.message(status, announces);
        if self.draw.percent(30) {
            // In two pieces.
            let cut = message.len() / 2;
            end.write_all(&message.as_bytes()[..cut]).await.ok()?;
            sleep(self.draw.ms(1..=50)).await;
            end.write_all(&message.as_bytes()[cut..]).await.ok()?;
        } else {
            end.write_all(message.as_bytes()).await.ok()?;
        }
        self.said(status, true);
        if !leaves {
            return Some(end);
        }
        if !announces {
            sleep(self.draw.ms(0..=3_000)).await;
            if self.draw.percent(50) {
                let stray = b"HTTP/1.1 408 Bored\r\ncontent-length: 0\r\n\r\n";
                let _ = end.write_all(stray).await;
            }
        }
        None
    }

    /// More than a gateway keeps, in pieces; or a stream of events.
    async fn say_at_length(mut self, mut end: End) -> Option<End> {
        let kind = match self.draw.percent(50) {
            true => "text/event-stream",
            false => "text/plain",
        };
        let head = format!(
            "HTTP/1.1 201 It is\r\ncontent-type: {kind}\r\nx-answer: {}\r\ntransfer-encoding: chunked\r\n\r\n",
            self.attempt
        );
        end.write_all(head.as_bytes()).await.ok()?;
        for _ in 0..4 {
            sleep(self.draw.ms(0..=200)).await;
            let piece = format!("400\r\n{:1024}\r\n", self.attempt);
            end.write_all(piece.as_bytes()).await.ok()?;
        }
        if self.happens(Fault::Truncates) {
            self.said(201, false);
            return None;
        }
        end.write_all(b"0\r\n\r\n").await.ok()?;
        self.said(201, true);
        Some(end)
    }
}
