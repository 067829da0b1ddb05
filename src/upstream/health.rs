//! Active health checks: every address of an upstream is asked, by itself, whether it is well.
//!
//! A check has a connection of its own, so that it also finds out whether one can be had. The first one decides at once;
//! afterwards it takes several in a row to change what is held of an address.

use std::error::Error;
use std::sync::{Arc, Weak};

use http::header::{HOST, USER_AGENT};
use http::{HeaderValue, Request, Response};
use http_body::Body;
use http_body_util::{BodyExt, Limited};
use tokio::time::{sleep, timeout};

use super::http2::Way;
use super::target::Target;
use super::{Gate, OutBody, Upstream, framing};
use crate::config::HealthCheck;
use crate::process;

/// What is read of an answer's body before its connection is closed: an upstream whose answer is not taken may say so in
/// its log.
const MAX_BODY: usize = 64 * 1024;

/// The part of the interval by which checks are spread, so that gateways that started together do not ask together.
const SPREAD: u32 = 5;

/// What is held of an address, and what speaks against it.
#[derive(Default)]
struct Held {
    is_known: bool,
    is_well: bool,
    /// Results in a row that say otherwise.
    against: usize,
}

impl Held {
    /// Whether what is held changes with this result.
    fn changes(&mut self, passed: bool, check: &HealthCheck) -> bool {
        if self.is_known && passed == self.is_well {
            self.against = 0;
            return false;
        }
        self.against += 1;
        let needed = match passed {
            _ if !self.is_known => 1,
            true => check.healthy,
            false => check.unhealthy,
        };
        if self.against < needed {
            return false;
        }
        *self = Self {
            is_known: true,
            is_well: passed,
            against: 0,
        };
        true
    }
}

/// Checks an address again and again, while its upstream lives and its name has it.
pub(super) async fn watch(upstream: Weak<Upstream>, target: Arc<Target>, check: HealthCheck) {
    let mut held = Held::default();
    sleep(process::jitter(check.interval / SPREAD)).await;
    loop {
        let Some(upstream) = upstream.upgrade() else {
            return;
        };
        // Boxed: most of the time there is none, and its task is small.
        let checking = Box::pin(upstream.check(&target, &check));
        let result = match timeout(check.timeout, checking).await {
            Ok(result) => result,
            Err(_) => Err(format!("no answer within {:?}", check.timeout)),
        };
        upstream.endpoints[target.endpoint]
            .counters
            .checked(result.is_ok());
        let was_known = held.is_known;
        if held.changes(result.is_ok(), &check) {
            target.set_healthy(result.is_ok());
            say(&upstream, &target, was_known, result.err());
        }
        drop(upstream);
        let spread = check.interval / SPREAD;
        let part = process::jitter(spread);
        sleep(check.interval - spread / 2 + part).await;
    }
}

fn say(upstream: &Upstream, target: &Target, was_known: bool, wrong: Option<String>) {
    let (name, address) = (&*upstream.name, &target.address);
    let endpoint = &*upstream.endpoints[target.endpoint].label;
    match wrong {
        Some(reason) => {
            tracing::warn!(upstream = name, endpoint, %address, reason, "an address fails its health checks; it gets no requests while another one is well");
        }
        None if was_known => {
            tracing::info!(upstream = name, endpoint, %address, "the address passes its health checks again");
        }
        None => {}
    }
}

impl Upstream {
    /// Asks once; otherwise why it is not well.
    async fn check(&self, target: &Target, check: &HealthCheck) -> Result<(), String> {
        let connected = self.open(target).await;
        let way = connected.map_err(|failed| failed.to_string())?;
        // That it takes connections is known now, whatever it says.
        self.is_back(target);
        let authority = self.endpoints[target.endpoint].authority();
        let host = authority.unwrap_or_else(|| HeaderValue::from_static("localhost"));
        let mut request = Request::get(check.path.clone())
            .header(HOST, check.host.clone().unwrap_or(host))
            .header(
                USER_AGENT,
                HeaderValue::from_static("oncegate-health-check"),
            )
            .body(OutBody::Empty)
            .map_err(|error| error.to_string())?;
        framing::frame(&mut request);
        let gate = Gate::open();
        let status = match way {
            Way::Alone(connection) => {
                let answered = connection.exchange(request, &gate).await;
                let (response, _connection) = answered.map_err(|failed| failed.kind.to_string())?;
                status(response).await
            }
            Way::Shared(place) => {
                let answered = place.exchange(Box::new(request), &gate).await;
                let (response, _held) = answered.map_err(|failed| failed.kind.to_string())?;
                status(response).await
            }
        };
        match check.status.contains(status) {
            true => Ok(()),
            false => Err(format!("the status {status}")),
        }
    }
}

/// The status of an answer that was read to its end, or as far as it may be. What it says there is nobody's concern, nor
/// whether it comes to an end.
async fn status<B: Body>(response: Response<B>) -> u16
where
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let (head, body) = response.into_parts();
    let _ = Limited::new(body, MAX_BODY).collect().await;
    head.status.as_u16()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::protocol::StatusSet;

    #[test]
    fn the_first_result_decides_and_later_ones_in_a_row() {
        let check = HealthCheck {
            path: "/healthz".parse().unwrap(),
            host: None,
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            healthy: 2,
            unhealthy: 3,
            status: StatusSet::parse(&["200"]).unwrap(),
        };
        let mut held = Held::default();
        for (passed, changes) in [
            (false, true),
            (true, false),
            (false, false),
            (true, false),
            (true, true),
            (false, false),
            (false, false),
            (true, false),
            (false, false),
            (false, false),
            (false, true),
            (false, false),
        ] {
            assert_eq!(held.changes(passed, &check), changes);
        }
        assert!(Held::default().changes(true, &check));
    }
}
