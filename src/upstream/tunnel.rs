//! The upstream's end of a connection that has switched protocols (RFC 9110, section 7.8).

use std::sync::Arc;

use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;

use super::lease::Lease;

/// The connection behind a 101; in the response's extensions. It counts as in flight until the last clone is dropped,
/// which also closes it.
#[derive(Clone)]
pub struct Tunnel {
    ready: OnUpgrade,
    lease: Arc<Lease>,
}

/// The upstream has ended the connection behind its 101.
#[derive(Debug, thiserror::Error)]
#[error("the upstream's connection was lost behind its 101")]
pub struct TunnelLost(#[source] hyper::Error);

impl Tunnel {
    pub(super) fn new(ready: OnUpgrade, lease: Lease) -> Self {
        Self {
            ready,
            lease: Arc::new(lease),
        }
    }

    /// The bytes of the other protocol, those that came with the 101 first. They last as long as the tunnel does.
    ///
    /// # Errors
    /// Where the connection has ended, or the request's body did.
    pub async fn open(&self) -> Result<TokioIo<Upgraded>, TunnelLost> {
        let bytes = self.ready.clone().await.map_err(TunnelLost)?;
        Ok(TokioIo::new(bytes))
    }

    /// Closes the connection with a reset: what the upstream was sent may not be all.
    pub fn break_off(self) {
        self.lease.break_off();
    }
}
