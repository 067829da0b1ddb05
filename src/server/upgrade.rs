//! Connections that switch to another protocol than HTTP (RFC 9110, section 7.8).

use std::future::Future;
use std::sync::Arc;

use futures_util::FutureExt;
use http::Request;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;

use super::activity::Activity;

/// The right to take a client's connection over; in the extensions of HTTP/1.1 requests that bear `Upgrade`.
#[derive(Clone)]
pub struct Upgrade {
    ready: OnUpgrade,
    activity: Arc<Activity>,
}

impl Upgrade {
    /// Puts it into the extensions of a request that may be answered with 101.
    pub(super) fn offer<B>(request: &mut Request<B>, activity: &Arc<Activity>) {
        let ready = request.extensions_mut().remove::<OnUpgrade>();
        // Over HTTP/2 it would be for CONNECT, and for one stream.
        if let Some(ready) = ready.filter(|_| !activity.is_http2()) {
            let activity = Arc::clone(activity);
            request.extensions_mut().insert(Self { ready, activity });
        }
    }

    /// Makes a tunnel of the connection. `run` gets its bytes once the answer, which must be a 101, was written; the
    /// connection ends with `run`, and counts as one until then. `run` is dropped where the connection cannot go on:
    /// at the end of a drain, or when nothing has moved for an hour.
    pub fn tunnel<F>(self, run: impl FnOnce(TokioIo<Upgraded>) -> F + Send + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let ready = self.ready;
        let tunnel = async move {
            if let Ok(bytes) = ready.await {
                run(TokioIo::new(bytes)).await;
            }
        };
        self.activity.begin_tunnel(tunnel.boxed());
    }

    /// Makes the connection's end a reset: what the client was sent may not be all.
    pub fn break_off(&self) {
        self.activity.break_off();
    }
}
