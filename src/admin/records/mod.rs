//! `/v1/records`: what operators see of records, and the words by which they settle them.
//!
//! - [`Records::answer`]: who may ask, and what for; a request never gets further without the token;
//! - `find`: from a route, a key and a scope, or from a `key_ref`, to a record;
//! - `show`: a record as JSON;
//! - `settle`: resolve, release, delete: compare-and-set, audited;
//! - `ask`: how the store is asked; `problem`: refusals.
//!
//! It shares the store with the gateway, and nothing else: what the gateway must hear it is told by a hook.

mod ask;
mod find;
mod problem;
mod settle;
mod show;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{Digest, SHA256, digest};
use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use serde::de::DeserializeOwned;
use serde_json::Value as Json;
use tokio_util::task::TaskTracker;

use self::problem::Problem;
use crate::identity::Identifier;
use crate::protocol::RecordId;
use crate::route::Route;
use crate::store::Store;
use crate::telemetry::{AuditLog, Metrics};

/// Told that a record was deleted or settled by hand: nobody in this process is to answer from what it remembers.
pub type Forgotten = Arc<dyn Fn(RecordId) + Send + Sync>;

/// The largest request body, in bytes: a response of 1 MiB and a half in base64, and what is said about it.
const MAX_BODY: usize = 2 << 20;

/// What begins the path of every page.
const PREFIX: &str = "/v1/records";

/// What records are found and settled with.
pub struct Parts {
    /// What an operator has to show.
    pub token: Vec<u8>,
    /// Where records are.
    pub store: Arc<dyn Store>,
    /// Of one store operation.
    pub store_timeout: Duration,
    /// In the order of the metrics.
    pub routes: Vec<Arc<Route>>,
    /// What names operations.
    pub identifier: Identifier,
    /// What counts what is settled.
    pub metrics: Arc<Metrics>,
    /// Where each word is written down.
    pub audit: AuditLog,
    /// Told of what is settled.
    pub forgotten: Forgotten,
    /// What is being settled. Once it is closed, nothing is settled any more.
    pub settling: TaskTracker,
}

/// The pages about records.
pub struct Records {
    parts: Parts,
    /// Of the token: of the same length whatever an asker shows.
    token: Digest,
}

/// What was asked for, and by whom.
struct Asked {
    parts: http::request::Parts,
    body: Incoming,
    peer: SocketAddr,
}

impl Records {
    /// Puts the parts together.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        Self {
            token: digest(&SHA256, &parts.token),
            parts,
        }
    }

    /// Whether a path is one of these.
    #[must_use]
    pub fn has(path: &str) -> bool {
        path.strip_prefix(PREFIX)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// Answers a request for one of these paths.
    pub async fn answer(
        self: &Arc<Self>,
        request: Request<Incoming>,
        peer: SocketAddr,
    ) -> Response<Full<Bytes>> {
        if !self.is_allowed(request.headers()) {
            return Problem::Unauthorized.page();
        }
        let (parts, body) = request.into_parts();
        let asked = Asked { parts, body, peer };
        match self.answered(asked).await {
            Ok((status, json)) => problem::json_page(status, &json),
            Err(problem) => problem.page(),
        }
    }

    /// Compared in a time that does not depend on how much of it is right.
    fn is_allowed(&self, headers: &HeaderMap) -> bool {
        let mut lines = headers.get_all(AUTHORIZATION).iter();
        let (Some(line), None) = (lines.next(), lines.next()) else {
            return false;
        };
        let Some((scheme, token)) = line.to_str().ok().and_then(|line| line.split_once(' ')) else {
            return false;
        };
        let shown = digest(&SHA256, token.trim().as_bytes());
        let is_same = verify_slices_are_equal(shown.as_ref(), self.token.as_ref()).is_ok();
        is_same && scheme.eq_ignore_ascii_case("bearer")
    }

    async fn answered(self: &Arc<Self>, asked: Asked) -> Result<(StatusCode, Json), Problem> {
        let path = asked.parts.uri.path().to_owned();
        let words: Vec<&str> = path[PREFIX.len()..]
            .split('/')
            .filter(|word| !word.is_empty())
            .collect();
        let found = match (&asked.parts.method, words.as_slice()) {
            (&Method::GET, []) => self.list(asked.query()?).await,
            (&Method::POST, ["lookup"]) => self.look_up(asked.json().await?).await,
            (&Method::GET, [id]) => {
                let query: show::Query = asked.query()?;
                self.show(record_id(id)?, query.wants_body()).await
            }
            (&Method::POST, [id, act @ ("resolve" | "release" | "delete")]) => {
                let (id, peer) = (record_id(id)?, asked.peer);
                let word = asked.json().await?;
                self.settled(id, (*act).to_owned(), word, peer).await
            }
            (_, [] | [_] | [_, "resolve" | "release" | "delete"]) => Err(Problem::Method),
            _ => Err(Problem::NoPage),
        };
        found.map(|json| (StatusCode::OK, json))
    }
}

impl Records {
    /// Settles a record in a task of its own: an operator who hangs up, or a deadline, does not come between the deed and
    /// the line that says who did it. Nor does the end of a drain, which waits for what was begun.
    async fn settled(
        self: &Arc<Self>,
        id: RecordId,
        act: String,
        word: settle::Word,
        peer: SocketAddr,
    ) -> Result<Json, Problem> {
        let settling = &self.parts.settling;
        // Before the question, so that who has closed it waits for this one or this one sees it closed.
        let begun = settling.token();
        if settling.is_closed() {
            return Err(Problem::Ending);
        }
        let records = Arc::clone(self);
        let settled = tokio::spawn(async move {
            let _begun = begun;
            records.settle(id, &act, word, peer).await
        });
        settled
            .await
            .unwrap_or_else(|error| Err(Problem::InDoubt(error.to_string())))
    }
}

impl Asked {
    fn query<T: DeserializeOwned>(&self) -> Result<T, Problem> {
        let query = self.parts.uri.query().unwrap_or_default();
        let mut object = serde_json::Map::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let text = |text: &str| {
                let text = text.replace('+', " ");
                let decoded = percent_encoding::percent_decode_str(&text).decode_utf8();
                decoded
                    .map(std::borrow::Cow::into_owned)
                    .map_err(|_| Problem::Bad("The query is not UTF-8.".to_owned()))
            };
            if object.insert(text(name)?, text(value)?.into()).is_some() {
                return Err(Problem::Bad(format!("`{name}` stands there twice.")));
            }
        }
        serde_json::from_value(Json::Object(object))
            .map_err(|error| Problem::Bad(format!("The query: {error}.")))
    }

    async fn json<T: DeserializeOwned>(self) -> Result<T, Problem> {
        let whole = Limited::new(self.body, MAX_BODY).collect().await;
        let whole = whole.map_err(|error| {
            if error.is::<http_body_util::LengthLimitError>() {
                return Problem::TooLarge;
            }
            Problem::Bad("The body broke off.".to_owned())
        })?;
        serde_json::from_slice(&whole.to_bytes())
            .map_err(|error| Problem::Bad(format!("The body: {error}.")))
    }
}

/// 64 hexadecimal digits.
fn record_id(digits: &str) -> Result<RecordId, Problem> {
    let bad = || Problem::Bad("A record's id has 64 hexadecimal digits.".to_owned());
    let mut id = [0; 32];
    let (pairs, rest) = digits.as_bytes().as_chunks::<2>();
    if pairs.len() != id.len() || !rest.is_empty() {
        return Err(bad());
    }
    for (byte, pair) in id.iter_mut().zip(pairs) {
        let digit = |digit: u8| char::from(digit).to_digit(16).ok_or_else(bad);
        let (high, low) = (digit(pair[0])?, digit(pair[1])?);
        *byte = u8::try_from(high << 4 | low).map_err(|_| bad())?;
    }
    Ok(RecordId(id))
}

/// Bytes in hexadecimal digits.
fn digits(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
