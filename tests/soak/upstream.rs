//! The upstream of the load: what it does with a request is what the request asks for.

use std::time::Duration;

use fastrand::Rng;

use crate::books::Books;
use crate::support::{Act, Received};

/// The header by which a request asks for something else than an answer.
pub const ACT: &str = "X-Act";

/// What an upstream can do to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Answers at once.
    Answer,
    /// Answers, but not at once.
    Slow,
    /// Answers after `response_timeout`, and before `late_response` is over.
    Late,
    /// Never answers.
    Stall,
    /// Breaks the connection.
    Reset,
    /// Answers a part.
    Truncate,
    /// Answers with more than is recorded.
    Large,
    /// Answers in pieces.
    Stream,
}

impl Wanted {
    const ALL: [Self; 8] = [
        Self::Answer,
        Self::Slow,
        Self::Late,
        Self::Stall,
        Self::Reset,
        Self::Truncate,
        Self::Large,
        Self::Stream,
    ];

    /// The value of [`ACT`].
    pub fn name(self) -> String {
        format!("{self:?}")
    }

    fn of(request: &Received) -> Self {
        let named = request.header(ACT).unwrap_or_default();
        let mut all = Self::ALL.into_iter();
        all.find(|wanted| wanted.name() == named)
            .unwrap_or(Self::Answer)
    }
}

/// Bytes of a large answer, and of a piece of one.
pub const LARGE: usize = 1_000_000;
pub const PIECE: usize = 10_000;

/// Does what the request asks for, and notes it.
pub fn act(request: &Received, books: &Books) -> Act {
    books.dispatched(request);
    let body = format!(
        "{{\"charge\":{},\"key\":\"{}\"}}",
        request.number,
        request.key()
    );
    let headers = [("Content-Type", "application/json")];
    let answer = Act::respond(201, &headers, &body);
    let pause =
        |from, to| Duration::from_millis(Rng::with_seed(request.number as u64).u64(from..to));
    match Wanted::of(request) {
        Wanted::Answer => answer,
        Wanted::Slow => answer.after_pause(pause(20, 200)),
        Wanted::Late => answer.after_pause(pause(700, 1500)),
        Wanted::Stall => Act::hang(),
        Wanted::Reset => Act::reset_after_reading(),
        Wanted::Truncate => Act::truncate(201, body.len() + 9, body.as_bytes()),
        Wanted::Large => Act::respond(201, &headers, vec![b'a'; LARGE]),
        Wanted::Stream => {
            let begun = Act::stream(200, &headers);
            (0..LARGE / PIECE)
                .fold(begun, |act, _| act.chunk([b'b'; PIECE]))
                .last_chunk()
        }
    }
}
