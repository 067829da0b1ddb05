//! The making of connections: a socket, TLS where it is spoken, and the protocol that both sides speak then.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::timeout;

use super::SendErrorKind;
use super::connection::{Connection, NotConnected};
use super::http2::{Liveness, Multiplexed, Opened};
use super::socket::{Address, Dialer, Socket};
use super::stats::Counters;
use super::tls::{Offer, Security, Spoken};

/// What connections to one endpoint are made with.
pub(super) struct Opening<'a> {
    pub(super) dialer: &'a Dialer,
    /// Where TLS is spoken to it.
    pub(super) security: Option<&'a Security>,
    /// The protocols that it has the choice of.
    pub(super) offer: Offer,
    /// For all of it.
    pub(super) limit: Duration,
    pub(super) counters: &'a Arc<Counters>,
}

impl Opening<'_> {
    /// A connection to `address` of the protocol that the endpoint chooses; `freed`: told of the streams of a shared one.
    pub(super) async fn open(
        &self,
        address: Address,
        liveness: Liveness,
        freed: Arc<Notify>,
    ) -> Result<Opened<Connection>, NotConnected> {
        self.within(async {
            let (socket, spoken) = self.reach(&address).await?;
            if spoken == Spoken::Http1 {
                let opening = Connection::over(socket, address, self.counters);
                return opening.await.map(Opened::Alone);
            }
            let is_secure = self.security.is_some();
            let opening = Multiplexed::open(
                socket,
                address.tcp(),
                is_secure,
                liveness,
                freed,
                self.counters,
            );
            opening.await.map(Opened::Shared)
        })
        .await
    }

    /// A connection to `address` for one request at a time.
    pub(super) async fn open_alone(&self, address: Address) -> Result<Connection, NotConnected> {
        let alone = Self {
            offer: Offer::Http1,
            ..*self
        };
        self.within(async {
            let (socket, _) = alone.reach(&address).await?;
            Connection::over(socket, address, self.counters).await
        })
        .await
    }

    /// Connects to `address`, sends it nothing of a request, and says what it speaks.
    pub(super) async fn try_out(&self, address: &Address) -> Result<Spoken, NotConnected> {
        self.within(async {
            let (socket, spoken) = self.reach(address).await?;
            match spoken {
                Spoken::Http1 => Ok(spoken),
                Spoken::Http2 => Multiplexed::try_out(socket).await.map(|()| spoken),
            }
        })
        .await
    }

    async fn within<T>(
        &self,
        work: impl Future<Output = Result<T, NotConnected>>,
    ) -> Result<T, NotConnected> {
        let late = NotConnected::because(SendErrorKind::ConnectTimeout);
        let done = timeout(self.limit, work).await;
        done.unwrap_or_else(|over| Err(late(over.into())))
    }

    async fn reach(&self, address: &Address) -> Result<(Socket, Spoken), NotConnected> {
        let connected = self.dialer.connect(address).await;
        let socket = connected.map_err(NotConnected::because(SendErrorKind::Connect))?;
        match self.security {
            Some(security) => {
                let shaken = security.shake_hands(socket, self.offer).await;
                shaken.map_err(NotConnected::because(SendErrorKind::Tls))
            }
            None => Ok((socket, self.offer.unnegotiated())),
        }
    }
}
