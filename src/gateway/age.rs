//! How old a key is, where its route asks, and keys whose age the gateway itself vouches for.
//!
//! A key that carries its time needs no record to be known as too old. Where it may be that its record was forgotten it
//! is only looked for, never claimed.

use std::sync::Arc;

use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Method, Response, StatusCode};
use serde::Serialize;

use super::Shared;
use super::body::Body;
use super::entry::Entry;
use super::ledger::Ledger;
use super::problem::Problem;
use crate::identity::{ISSUED_RANDOM_LEN, Identifier, Key, KeyFormat};
use crate::protocol::Timestamp;
use crate::route::{Cors, KeyAge, Policy, Standing, Table};
use crate::store::StoreError;
use crate::telemetry::Unrouted;

/// Where keys are issued.
const KEYS: &str = "/.well-known/oncegate/keys";

/// When this key was made, where its route makes something of that.
#[must_use]
pub fn relevant(policy: &Policy, key: &Key) -> Option<Timestamp> {
    match policy.key_age {
        KeyAge::Ignore => None,
        KeyAge::Reject => policy.key_format.made_at(key),
    }
}

/// How a key that was made then stands now; one whose age does not matter is fresh. The store is not asked for each key.
///
/// # Errors
/// Where the store does not say what time it is.
pub async fn standing(
    ledger: &Ledger,
    policy: &Policy,
    made_at: Option<Timestamp>,
) -> Result<Standing, StoreError> {
    match made_at {
        None => Ok(Standing::Fresh),
        Some(made_at) => Ok(policy.standing(made_at, ledger.now().await?)),
    }
}

/// Issues keys, where some route asks for such.
pub struct Issuer {
    /// How long the shortest-lived of them may still be used for the first time.
    fresh_for_s: Option<u64>,
    /// Who may ask for keys from a page: whoever may use them on some route.
    cors: Vec<Arc<Cors>>,
}

/// What a client gets.
#[derive(Serialize)]
struct Issued {
    key: String,
    /// Seconds since the Unix epoch; none where no route refuses old keys.
    expires_at: Option<u64>,
}

impl Issuer {
    /// `None` where no route takes issued keys.
    #[must_use]
    pub fn new(routes: &Table) -> Option<Self> {
        let takes_issued = |policy: &&Policy| matches!(policy.key_format, KeyFormat::Issued);
        let takers = || {
            let routes = routes.routes().iter();
            routes.filter_map(|route| Some((route, route.policy().filter(takes_issued)?)))
        };
        takers().next()?;
        let fresh_for = takers().filter_map(|(_, policy)| policy.fresh_for()).min();
        Some(Self {
            fresh_for_s: fresh_for.map(|span| span.as_secs()),
            cors: takers()
                .filter_map(|(route, _)| route.cors.clone())
                .collect(),
        })
    }

    /// What a page of this origin is told of keys: what it is told of a route where it may use them.
    #[must_use]
    pub fn cors(&self, origin: Option<&HeaderValue>) -> Option<&Cors> {
        let mut routes = self.cors.iter();
        let allowing = routes.find(|cors| cors.origins.allow(origin).is_some());
        allowing.or(self.cors.first()).map(Arc::as_ref)
    }

    /// Whether a request asks for a key.
    #[must_use]
    pub fn is_asked(&self, method: &Method, path: &str) -> bool {
        method == Method::POST && path == KEYS
    }

    /// Answers one that does. What it bears besides does not matter: a key belongs to nobody before it is used.
    pub async fn issued(
        &self,
        shared: &Shared,
        identifier: &Identifier,
        entry: &Entry,
    ) -> Response<Body> {
        let (became, response) = match shared.ledger.now().await {
            Ok(now) => (Unrouted::KeyIssued, self.created(identifier, now)),
            Err(error) => {
                tracing::debug!(%error, "no key issued");
                let refusal = shared.refusal(Problem::StoreUnavailable);
                (Unrouted::KeyNotIssued, refusal.unrouted())
            }
        };
        shared.metrics.unrouted.inc(became);
        entry.unrouted(became);
        response
    }

    fn created(&self, identifier: &Identifier, now: Timestamp) -> Response<Body> {
        let mut random = [0; ISSUED_RANDOM_LEN];
        aws_lc_rs::rand::fill(&mut random).expect("the system has a source of randomness");
        let issued = Issued {
            key: identifier.issue_key(now, random),
            // Rounded down: a client that believes it is never too late.
            expires_at: self.fresh_for_s.map(|fresh_for| now.0 / 1000 + fresh_for),
        };
        let json = serde_json::to_vec(&issued).expect("two plain members");
        let mut response = Response::new(Body::full(json.into()));
        *response.status_mut() = StatusCode::CREATED;
        let headers = response.headers_mut();
        let json = HeaderValue::from_static("application/json");
        headers.insert(CONTENT_TYPE, json);
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }
}
