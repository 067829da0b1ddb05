//! From what an operator has to a record.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use http::{HeaderMap, HeaderValue};
use serde::Deserialize;
use serde_json::{Value as Json, json};

use super::problem::Problem;
use super::show::now;
use super::{Records, digits, record_id};
use crate::identity::{KeySource, key, scope};
use crate::protocol::{Record, RecordId, Timestamp};
use crate::route::Route;
use crate::store::Unresolved;

/// Records of one page, unless another number is asked for, and the most.
const LIMIT: usize = 100;
const LIMIT_MAX: usize = 1000;
/// Records that the store is asked for at a time.
const STEP: usize = 500;
/// Records looked at for one page, or for one `key_ref`, of which a filter may leave none.
const LOOKED_AT: usize = 20_000;
/// Records of a page that are read at a time.
const AT_ONCE: usize = 16;

/// Which of the unresolved records are wanted.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    /// The name or the id of a route.
    route: Option<String>,
    /// Unresolved for so long at least, in seconds.
    min_age: Option<String>,
    limit: Option<String>,
    /// Where the page before ended.
    cursor: Option<String>,
}

/// What an operator knows of a record.
#[derive(Debug, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
pub enum Known {
    /// What its client sent.
    Sent {
        /// The name or the id of a route.
        route: String,
        /// As it was sent.
        key: String,
        /// The values of what names the client, in the order of the route's `scope`; one that was not sent is null.
        #[serde(default)]
        scope: Vec<Option<String>>,
        #[serde(default)]
        body: bool,
    },
    /// How answers and logs name it. Only unresolved records are found by it.
    KeyRef { key_ref: String },
}

type Place = (Timestamp, RecordId);

impl Records {
    /// A page of unresolved records, the oldest first.
    pub(super) async fn list(&self, filter: Filter) -> Result<Json, Problem> {
        let number = |text: &Option<String>, name: &str| match text {
            None => Ok(None),
            Some(text) => text
                .parse::<u64>()
                .map(Some)
                .map_err(|_| Problem::Bad(format!("`{name}` is not a number."))),
        };
        let limit = number(&filter.limit, "limit")?.map_or(LIMIT, |limit| {
            usize::try_from(limit)
                .unwrap_or(LIMIT_MAX)
                .clamp(1, LIMIT_MAX)
        });
        let min_age = number(&filter.min_age, "min_age")?.map(Duration::from_secs);
        let route = match &filter.route {
            None => None,
            Some(name) => Some(self.route(name)?.1),
        };
        let before = Timestamp(now().0.saturating_sub(
            min_age.map_or(0, |age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
        ));
        let mut after = filter.cursor.as_deref().map(place).transpose()?;
        let (mut wanted, mut looked_at, mut next) = (Vec::new(), 0, None);
        'pages: loop {
            let page = self.page(after).await?;
            for unresolved in &page {
                if min_age.is_some() && unresolved.since > before {
                    break 'pages;
                }
                if wanted.len() == limit || looked_at == LOOKED_AT {
                    next = after;
                    break 'pages;
                }
                looked_at += 1;
                after = Some(unresolved.place());
                if route.is_none_or(|route| route.id == unresolved.route) {
                    wanted.push(unresolved.clone());
                }
            }
            if page.len() < STEP {
                break;
            }
        }
        let records: Vec<Option<Json>> = stream::iter(wanted)
            .map(|unresolved| self.listed(unresolved))
            .buffered(AT_ONCE)
            .collect()
            .await;
        Ok(json!({
            "records": records.into_iter().flatten().collect::<Vec<_>>(),
            "next": next.map(|(since, id)| format!("{}.{}", since.0, digits(&id.0))),
        }))
    }

    /// An unresolved record as it is now; nothing where it was settled meanwhile.
    async fn listed(&self, unresolved: Unresolved) -> Option<Json> {
        let mut shown = match self.read(unresolved.id).await {
            Ok(Some(record)) => self.shown(&unresolved.id, &record, false),
            Ok(None) => return None,
            // It is unresolved for all that anybody knows.
            Err(_) => json!({
                "id": digits(&unresolved.id.0),
                "key_ref": self.parts.identifier.key_ref(&unresolved.id).to_string(),
                "route_id": &*unresolved.route,
                "state": "unreadable",
            }),
        };
        if let Json::Object(shown) = &mut shown {
            let age = now().since(unresolved.since);
            shown.insert("age_seconds".to_owned(), age.as_secs().into());
        }
        Some(shown)
    }

    async fn page(&self, after: Option<Place>) -> Result<Vec<Unresolved>, Problem> {
        let said = self.insist(|store| store.unresolved(after, STEP)).await;
        said.answer.map_err(super::ask::unasked)
    }

    /// The record of which this is known.
    pub(super) async fn look_up(&self, known: Known) -> Result<Json, Problem> {
        match known {
            Known::Sent {
                route,
                key,
                scope,
                body,
            } => {
                let id = self.id_of(&route, &key, &scope)?;
                self.show(id, body).await
            }
            Known::KeyRef { key_ref } => {
                let id = self.unresolved_with(&key_ref).await?;
                self.show(id, false).await
            }
        }
    }

    /// Under what the record of this operation is stored, as the gateway finds it.
    fn id_of(
        &self,
        route: &str,
        sent_key: &str,
        sent_scope: &[Option<String>],
    ) -> Result<RecordId, Problem> {
        let (_, route) = self.route(route)?;
        let policy = route
            .policy()
            .ok_or_else(|| Problem::Bad(format!("{:?} protects nothing.", route.name)))?;
        if sent_scope.len() > policy.scope.len() {
            let names: Vec<&str> = policy.scope.iter().map(|s| s.header().as_str()).collect();
            let wanted = match names.as_slice() {
                [] => "none".to_owned(),
                names => names.join(", "),
            };
            let wrong = format!("The scope of {:?} is {wanted}.", route.name);
            return Err(Problem::Bad(wrong));
        }
        let bad = |why: String| Problem::Bad(why);
        let value = |text: &str| {
            HeaderValue::from_str(text).map_err(|_| bad("That is no header's value.".to_owned()))
        };
        let mut headers = HeaderMap::new();
        for (source, sent) in policy.scope.iter().zip(sent_scope) {
            if let Some(sent) = sent {
                headers.append(source.header(), value(sent)?);
            }
        }
        let scope = scope::find(&policy.scope, &headers).map_err(|missing| {
            let name = missing.0.header();
            bad(format!(
                "The scope of {:?} needs the value of {name}.",
                route.name
            ))
        })?;
        let Some(KeySource::Header(name)) = policy.key.first() else {
            return Err(bad(format!("{:?} has no key.", route.name)));
        };
        let mut headers = HeaderMap::new();
        headers.insert(name, value(sent_key)?);
        let key = key::find(&policy.key[..1], &policy.key_format, &headers)
            .map_err(|invalid| bad(invalid.to_string()))?
            .ok_or_else(|| bad("There is no key.".to_owned()))?;
        Ok(self.parts.identifier.record_id(&route.id, &scope, &key))
    }

    async fn unresolved_with(&self, key_ref: &str) -> Result<RecordId, Problem> {
        let (mut after, mut looked_at) = (None, 0);
        let digits = key_ref.to_ascii_lowercase();
        while looked_at < LOOKED_AT {
            let page = self.page(after).await?;
            let same = |unresolved: &&Unresolved| {
                self.parts.identifier.key_ref(&unresolved.id).to_string() == digits
            };
            if let Some(found) = page.iter().find(same) {
                return Ok(found.id);
            }
            looked_at += page.len();
            after = page.last().map(Unresolved::place);
            if page.len() < STEP {
                break;
            }
        }
        let detail = "No unresolved record bears this key_ref. Perhaps it was settled meanwhile: look with --route, --key and \
             --scope, or by the id that `show` said.";
        Err(Problem::Absent(
            json!({ "detail": detail, "key_ref": key_ref }),
        ))
    }

    /// The route of this name or, failing that, of this id, and its place in the metrics.
    fn route(&self, name: &str) -> Result<(usize, &Arc<Route>), Problem> {
        let routes = || self.parts.routes.iter().enumerate();
        routes()
            .find(|(_, route)| route.name == name)
            .or_else(|| routes().find(|(_, route)| *route.id == *name))
            .ok_or_else(|| Problem::Bad(format!("There is no route {name:?}.")))
    }

    /// The route that a record belongs to, if it is configured.
    pub(super) fn route_of(&self, record: &Record) -> Option<(usize, &Arc<Route>)> {
        let mut routes = self.parts.routes.iter().enumerate();
        routes.find(|(_, route)| route.id == record.route)
    }
}

fn place(cursor: &str) -> Result<Place, Problem> {
    let bad = || Problem::Bad("That is no cursor.".to_owned());
    let (since, id) = cursor.split_once('.').ok_or_else(bad)?;
    let since = since.parse().map_err(|_| bad())?;
    Ok((Timestamp(since), record_id(id)?))
}
