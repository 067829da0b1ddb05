//! Upstreams without manners, at random: whatever they say, and whenever they hang up, no request is processed twice,
//! none that was is taken for unsent, and each one ends.

use std::collections::HashMap;
use std::sync::Mutex;

use fastrand::Rng;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::*;

/// Requests of one seed, and how many of them are under way at a time.
const REQUESTS: u64 = 200;
const AT_ONCE: usize = 16;

/// How long the impatient wait for an answer.
const IMPATIENCE: Duration = Duration::from_millis(20);

/// How often each request was processed.
#[derive(Clone, Default)]
struct Books(Arc<Mutex<HashMap<u64, u32>>>);

impl Books {
    fn processed(&self, which: u64) {
        *self.0.lock().unwrap().entry(which).or_default() += 1;
    }

    fn times(&self, which: u64) -> u32 {
        self.0.lock().unwrap().get(&which).copied().unwrap_or(0)
    }
}

/// One connection of an upstream that does as the dice fall.
struct Rogue {
    peer: Peer,
    dice: Rng,
    books: Books,
    /// The last stream that it processes, and the last one that it has processed.
    last: u32,
    highest: u32,
    /// What was processed and is not answered yet.
    owed: Vec<u32>,
}

/// Whether the connection goes on.
#[derive(PartialEq, Eq)]
enum Then {
    Goes,
    Ends,
}

impl Rogue {
    async fn run(mut self) {
        let mut bodies: HashMap<u32, Vec<u8>> = HashMap::new();
        while let Some(frame) = self.peer.read().await {
            if frame.kind == DATA {
                let body = bodies.entry(frame.stream).or_default();
                body.extend(&frame.payload);
            }
            if frame.kind == RST_STREAM {
                bodies.remove(&frame.stream);
                self.owed.retain(|stream| *stream != frame.stream);
                continue;
            }
            if frame.flags & END_STREAM == 0 || frame.stream > self.last {
                continue;
            }
            let body = bodies.remove(&frame.stream).expect("a body");
            let which = u64::from_be_bytes(body.try_into().expect("a number"));
            if self.does(which, frame.stream).await == Then::Ends {
                break;
            }
        }
        if self.dice.bool() {
            reset(self.peer.socket);
        }
    }

    async fn writes(&mut self, frames: &[Vec<u8>]) -> Then {
        match self.peer.socket.write_all(&frames.concat()).await {
            Ok(()) => Then::Goes,
            Err(_) => Then::Ends,
        }
    }

    async fn does(&mut self, which: u64, stream: u32) -> Then {
        let hint = || frame(HEADERS, END_HEADERS, stream, STATUS_103);
        let head = || frame(HEADERS, END_HEADERS, stream, STATUS_200);
        let reset = |reason: u32| frame(RST_STREAM, 0, stream, &reason.to_be_bytes());
        let goodbye = |last: u32| frame(GOAWAY, 0, 0, &goodbye(last));
        let mut deed = self.dice.u32(..20);
        if stream < self.highest && matches!(deed, 7 | 11 | 12) {
            // A goodbye before this stream would deny a later one that was processed.
            deed = 6;
        }
        // What it does not process it says so of, or it hangs up.
        if !matches!(deed, 6..9) {
            self.books.processed(which);
            self.highest = self.highest.max(stream);
        }
        let before = stream.saturating_sub(2);
        match deed {
            0..4 => {
                self.owed.push(stream);
                self.settles().await
            }
            4 => {
                self.owed.push(stream);
                Then::Goes
            }
            // It settles its debts late, and reads nothing meanwhile.
            5 => {
                self.owed.push(stream);
                sleep(Duration::from_millis(5)).await;
                self.settles().await
            }
            6 => self.writes(&[reset(REFUSED_STREAM)]).await,
            7 => {
                self.last = before;
                let begins = match self.dice.bool() {
                    true => vec![goodbye(i32::MAX as u32), goodbye(self.last)],
                    false => vec![goodbye(self.last)],
                };
                if self.writes(&begins).await == Then::Ends || self.dice.bool() {
                    return Then::Ends;
                }
                self.settles().await
            }
            8 => Then::Ends,
            // What has begun to be answered was processed, whatever is said then.
            9 => self.writes(&[hint(), reset(REFUSED_STREAM)]).await,
            10 => self.writes(&[head(), reset(REFUSED_STREAM)]).await,
            11 => {
                self.last = before;
                self.writes(&[hint(), goodbye(self.last)]).await
            }
            12 => {
                self.last = before;
                self.writes(&[head(), goodbye(self.last)]).await
            }
            13 => {
                let reason = [0, 2, CANCEL, 11][self.dice.usize(..4)];
                self.writes(&[reset(reason)]).await
            }
            14 => {
                self.last = self.highest;
                self.owed.push(stream);
                if self.writes(&[goodbye(self.last)]).await == Then::Ends || self.dice.bool() {
                    return Then::Ends;
                }
                self.settles().await
            }
            15 => Then::Ends,
            // A breach of the protocol: the other side ends the connection.
            16 => self.writes(&[frame(DATA, 0, 0, b"x")]).await,
            17 => {
                let fewer = frame(SETTINGS, 0, 0, &max_streams(self.dice.u32(..2)));
                let more = frame(SETTINGS, 0, 0, &max_streams(100));
                self.owed.push(stream);
                let _ = self.writes(&[fewer]).await;
                sleep(Duration::from_millis(1)).await;
                let _ = self.writes(&[more]).await;
                self.settles().await
            }
            // An answer that never ends.
            18 => self.writes(&[head()]).await,
            _ => self.writes(&[head(), reset(0)]).await,
        }
    }

    /// Answers what it owes.
    async fn settles(&mut self) -> Then {
        let owed = std::mem::take(&mut self.owed);
        let answers: Vec<_> = owed
            .into_iter()
            .flat_map(|stream| {
                [
                    frame(HEADERS, END_HEADERS, stream, STATUS_200),
                    frame(DATA, END_STREAM, stream, b"ok"),
                ]
            })
            .collect();
        self.writes(&answers).await
    }
}

async fn serve(origin: Origin, mut dice: Rng, books: Books) {
    let mut connections = JoinSet::new();
    while let Ok((socket, _)) = origin.0.accept().await {
        let (dice, books) = (dice.fork(), books.clone());
        let settings = max_streams(3);
        connections.spawn(async move {
            if let Some(peer) = Peer::over(socket, &settings).await {
                let rogue = Rogue {
                    peer,
                    dice,
                    books,
                    last: u32::MAX,
                    highest: 0,
                    owed: Vec::new(),
                };
                rogue.run().await;
            }
        });
    }
}

/// What is known of a request by who sent it.
#[derive(Debug, PartialEq, Eq)]
enum Known {
    Answered,
    Sent,
    Unsent,
}

/// Sends a request, and may lose patience, withdraw it, or both.
async fn ask(upstream: Arc<Upstream>, which: u64, mut dice: Rng) -> Known {
    let number = Bytes::copy_from_slice(&which.to_be_bytes());
    let body = match dice.u32(..4) {
        0 => OutBody::streaming(StreamBody::new(stream::iter([
            Ok::<_, Infallible>(Frame::data(number.slice(..3))),
            Ok(Frame::data(number.slice(3..))),
        ]))),
        _ => OutBody::from(number),
    };
    let gate = Gate::until(Instant::now() + FOREVER);
    let patience = match dice.u32(..3) {
        0 => Duration::from_micros(dice.u64(..3_000)),
        _ => IMPATIENCE,
    };
    let mut sending = Box::pin(upstream.send(request(body), &gate));
    let mut result = timeout(patience, &mut sending).await;
    if result.is_err() && gate.close() {
        return Known::Unsent;
    }
    if result.is_err() && dice.bool() {
        // A late answer is waited for.
        result = timeout(IMPATIENCE, &mut sending).await;
    }
    match result {
        Ok(Ok(response)) => {
            // Its end is another matter.
            let _ = timeout(IMPATIENCE, read_all(response)).await;
            Known::Answered
        }
        Ok(Err(SendError { sent: false, .. })) => Known::Unsent,
        Ok(Err(SendError { sent: true, .. })) | Err(_) => Known::Sent,
    }
}

async fn is_true_of(seed: u64) {
    let mut dice = Rng::with_seed(seed);
    let books = Books::default();
    let origins = [Origin::bind().await, Origin::bind().await];
    let upstream = shared(&[&origins[0], &origins[1]]);
    let servers: Vec<_> = origins
        .into_iter()
        .map(|origin| tokio::spawn(serve(origin, dice.fork(), books.clone())))
        .collect();
    let (mut asking, mut known) = (JoinSet::new(), HashMap::new());
    for which in 0..REQUESTS {
        let (upstream, dice) = (Arc::clone(&upstream), dice.fork());
        asking.spawn(async move { (which, ask(upstream, which, dice).await) });
        if asking.len() == AT_ONCE {
            known.extend([asking.join_next().await.unwrap().unwrap()]);
        }
    }
    known.extend(asking.join_all().await);
    assert_eq!(upstream.stats().in_flight, 0, "seed {seed}");
    drop(upstream);
    // What is on its way still may be processed.
    sleep(Duration::from_millis(50)).await;
    for (which, known) in known {
        let times = books.times(which);
        let is_true = match known {
            Known::Answered => times == 1,
            Known::Sent => times <= 1,
            Known::Unsent => times == 0,
        };
        assert!(
            is_true,
            "seed {seed}: {which} is {known:?}, and was processed {times} times"
        );
    }
    for server in servers {
        server.abort();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_request_is_processed_twice_nor_when_it_is_taken_for_unsent() {
    let seed = std::env::var("SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let seeds = match seed {
        Some(seed) => vec![seed],
        None => (0..10).map(|_| fastrand::u64(..)).collect(),
    };
    for seed in seeds {
        println!("SEED={seed}");
        let all = timeout(6 * FOREVER, is_true_of(seed)).await;
        all.expect("every request ends");
    }
}
