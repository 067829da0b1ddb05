//! A place in flight, and the use of a connection for one exchange.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::header::{CONNECTION, CONTENT_LENGTH, HeaderName, TRANSFER_ENCODING};
use http::{HeaderMap, Response, StatusCode, Version};

use super::Upstream;
use super::connection::Connection;
use super::http2;
use super::target::Target;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// How much earlier than the upstream announced a connection is given up: the announcement and the next request
/// take time on the way. Of announcements below two seconds it is the half.
const KEEP_ALIVE_MARGIN: Duration = Duration::from_secs(1);

/// One of the upstream's `max_in_flight` places, counted for the address that is tried.
pub(super) struct Place {
    upstream: Arc<Upstream>,
    target: Option<Arc<Target>>,
}

impl Place {
    /// Takes a place, where one is free.
    pub(super) fn take(upstream: &Arc<Upstream>) -> Option<Self> {
        let max = upstream.max_in_flight;
        let one_more = |taken: usize| (taken < max).then_some(taken + 1);
        upstream
            .in_flight
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, one_more)
            .ok()?;
        Some(Self {
            upstream: Arc::clone(upstream),
            target: None,
        })
    }

    /// Counts for `target` from now on, and no longer for the one before.
    pub(super) fn move_to(&mut self, target: &Arc<Target>) {
        self.leave();
        target.entered();
        self.target = Some(Arc::clone(target));
    }

    fn leave(&mut self) {
        if let Some(target) = self.target.take() {
            target.left();
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.leave();
        self.upstream.in_flight.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The use of a connection, or of a stream of one, until the response's body has ended. Dropping it closes the connection,
/// or ends the stream.
pub(super) struct Lease {
    place: Place,
    used: Used,
}

enum Used {
    Connection {
        connection: Connection,
        /// How long the connection may be idle afterwards; `None`: it is not used again.
        keep: Option<Duration>,
    },
    Stream(http2::Held),
}

impl Lease {
    /// Who is at the other end, where it has an address.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        match &self.used {
            Used::Connection { connection, .. } => connection.address(),
            Used::Stream(held) => held.address(),
        }
    }

    /// Of a stream.
    pub(super) fn of_stream(place: Place, held: http2::Held) -> Self {
        let used = Used::Stream(held);
        Self { place, used }
    }

    /// Of a connection on which this response has come.
    pub(super) fn new<B>(place: Place, connection: Connection, response: &Response<B>) -> Self {
        // Answered early, the upstream may take the rest of the request for another one.
        let keep =
            keep(response, place.upstream.idle_timeout).filter(|_| connection.has_sent_request());
        let used = Used::Connection { connection, keep };
        Self { place, used }
    }

    /// The response has ended: the connection may be used again.
    pub(super) fn give_back(self) {
        let Used::Connection {
            connection,
            keep: Some(keep),
        } = self.used
        else {
            return;
        };
        let Some(target) = &self.place.target else {
            return;
        };
        if target.check_in(connection, keep) {
            self.place.upstream.start_reaper();
        }
    }

    /// Closes the connection with a reset.
    pub(super) fn break_off(&self) {
        match &self.used {
            Used::Connection { connection, .. } => connection.reset(),
            // No tunnel goes through one, and dropping it resets it.
            Used::Stream(_) => {}
        }
    }

    /// The response broke off.
    pub(super) fn cut_off(self) {
        self.place.upstream.counters.cut_off();
    }
}

/// How long a connection may be idle after this response (RFC 9112, section 9.3; `Keep-Alive`: RFC 2068,
/// section 19.7.1).
fn keep<B>(response: &Response<B>, idle_timeout: Duration) -> Option<Duration> {
    let persists = response.version() == Version::HTTP_11
        && response.status() != StatusCode::SWITCHING_PROTOCOLS
        && !says_close(response.headers())
        && !announces_body_of_none(response);
    if !persists {
        return None;
    }
    let Some(announced) = announced(response.headers()) else {
        return Some(idle_timeout);
    };
    let usable = announced - KEEP_ALIVE_MARGIN.min(announced / 2);
    let keep = usable.min(idle_timeout);
    (!keep.is_zero()).then_some(keep)
}

/// Whether the upstream says of a 204, which has no body, that it has one: then it may also send it (RFC 9110, section
/// 8.6, and RFC 9112, section 6.1).
fn announces_body_of_none<B>(response: &Response<B>) -> bool {
    let headers = response.headers();
    response.status() == StatusCode::NO_CONTENT
        && (headers.contains_key(TRANSFER_ENCODING)
            || headers
                .get(CONTENT_LENGTH)
                .is_some_and(|length| length != "0"))
}

fn says_close(headers: &HeaderMap) -> bool {
    headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|option| option.trim().eq_ignore_ascii_case("close"))
}

fn announced(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(KEEP_ALIVE)?.to_str().ok()?;
    let seconds = value.split(',').find_map(|parameter| {
        let (name, seconds) = parameter.split_once('=')?;
        let is_timeout = name.trim().eq_ignore_ascii_case("timeout");
        is_timeout.then(|| seconds.trim().trim_matches('"').parse::<u32>().ok())?
    })?;
    Some(Duration::from_secs(seconds.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Duration = Duration::from_secs(4);

    fn kept(headers: &[(&str, &str)]) -> Option<Duration> {
        let mut response = Response::builder();
        for (name, value) in headers {
            response = response.header(*name, *value);
        }
        keep(&response.body(()).unwrap(), IDLE)
    }

    #[test]
    fn the_shorter_of_both_keep_alives_counts_minus_a_margin() {
        let seconds = Duration::from_secs;
        assert_eq!(kept(&[]), Some(IDLE));
        assert_eq!(kept(&[("keep-alive", "timeout=60")]), Some(IDLE));
        assert_eq!(
            kept(&[("keep-alive", "max=9, Timeout = 3")]),
            Some(seconds(2))
        );
        assert_eq!(
            kept(&[("keep-alive", "timeout=1")]),
            Some(Duration::from_millis(500))
        );
        assert_eq!(kept(&[("keep-alive", "timeout=0")]), None);
        assert_eq!(kept(&[("keep-alive", "timeout=soon")]), Some(IDLE));
    }

    #[test]
    fn close_among_several_options_or_lines_means_close() {
        assert_eq!(kept(&[("connection", "x-a, Close")]), None);
        let lines = [("connection", "keep-alive"), ("connection", "close")];
        assert_eq!(kept(&lines), None);
    }

    #[test]
    fn a_204_that_announces_a_body_may_be_followed_by_it() {
        let kept = |name: &str, value: &str| {
            let response = Response::builder().status(204).header(name, value);
            keep(&response.body(()).unwrap(), IDLE)
        };
        assert_eq!(kept("content-length", "0"), Some(IDLE));
        assert_eq!(kept("content-length", "2"), None);
        assert_eq!(kept("transfer-encoding", "chunked"), None);
    }
}
