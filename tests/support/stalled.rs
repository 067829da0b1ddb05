//! An upstream to which connecting takes as long as the test says.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::within;

/// How long a connection on this machine takes at most where there is room for it.
const SOON: Duration = Duration::from_millis(300);

/// More connections than the shortest backlog holds.
const MANY: usize = 16;

/// A listener whose backlog is full: further connections are neither taken nor refused.
pub struct StalledUpstream {
    listener: TcpListener,
    address: SocketAddr,
    fillers: Vec<TcpStream>,
}

impl StalledUpstream {
    /// Takes a free port and fills its backlog.
    pub async fn start() -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        socket.bind(&any_port.into()).expect("a free port");
        socket.listen(0).expect("to listen");
        socket.set_nonblocking(true).expect("a socket");
        let listener = TcpListener::from_std(socket.into()).expect("a listener");
        let address = listener.local_addr().expect("a bound socket");
        let mut fillers = Vec::new();
        while let Ok(filler) = timeout(SOON, TcpStream::connect(address)).await {
            fillers.push(filler.expect("a connection"));
            assert!(fillers.len() < MANY, "the backlog takes them all");
        }
        Self {
            listener,
            address,
            fillers,
        }
    }

    /// What to write into `endpoints`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Lets one more connection through, and returns what comes over it until it is closed.
    pub async fn takes_one(self) -> Vec<u8> {
        for _ in &self.fillers {
            self.listener.accept().await.expect("a filler");
        }
        let (mut stream, _) = within("the connection", self.listener.accept())
            .await
            .expect("a connection");
        let mut received = Vec::new();
        // A reset ends it as well.
        let _ = within("its end", stream.read_to_end(&mut received)).await;
        received
    }
}
