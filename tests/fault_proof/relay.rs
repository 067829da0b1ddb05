//! A TCP relay that stands between two others and has its weather.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep;

use crate::wiretap::Wiretap;

/// Bytes read at once.
const PIECE: usize = 16 * 1024;

/// The pause before a port is tried again that was given up a moment ago.
const BIND_AGAIN: Duration = Duration::from_millis(20);

/// What a relay does to what passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weather {
    Fair,
    /// Each piece takes a while, at most so long.
    Slow(Duration),
    /// Nothing passes that way until the weather changes; then everything does.
    Holds(Way),
    /// What goes that way is lost. A connection that has lost something is reset when the weather changes.
    Loses(Way),
    /// Nobody listens.
    Refuses,
}

/// From whom to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From those who connect.
    Up,
    Down,
    Both,
}

impl Way {
    fn covers(self, way: Self) -> bool {
        self == Self::Both || self == way
    }
}

/// A relay. Dropping it ends it.
pub struct Relay {
    /// Where it listens.
    pub address: SocketAddr,
    weather: watch::Sender<Weather>,
    cuts: watch::Sender<u64>,
    accepting: JoinHandle<()>,
}

/// Makes the ear of a new connection.
pub type Tap = Arc<dyn Fn() -> Wiretap + Send + Sync>;

impl Relay {
    /// Between whoever connects to `at` (port 0: any) and `to`.
    pub async fn start(at: SocketAddr, to: SocketAddr, tap: Option<Tap>) -> Self {
        let listener = TcpListener::bind(at).await.expect("a free port");
        let address = listener.local_addr().expect("a bound socket");
        let (weather, cuts) = (watch::Sender::new(Weather::Fair), watch::Sender::new(0));
        let passage = Passage {
            to,
            weather: weather.subscribe(),
            cuts: cuts.subscribe(),
            tap,
        };
        let accepting = tokio::spawn(accept(Some(listener), address, passage));
        Self {
            address,
            weather,
            cuts,
            accepting,
        }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn set(&self, weather: Weather) {
        self.weather.send_replace(weather);
    }

    /// Resets every connection.
    pub fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

#[derive(Clone)]
struct Passage {
    to: SocketAddr,
    weather: watch::Receiver<Weather>,
    cuts: watch::Receiver<u64>,
    tap: Option<Tap>,
}

async fn accept(mut listener: Option<TcpListener>, address: SocketAddr, mut passage: Passage) {
    // Dropped with the relay.
    let mut connections = JoinSet::new();
    loop {
        let refuses = *passage.weather.borrow_and_update() == Weather::Refuses;
        if refuses {
            listener = None;
        } else if listener.is_none() {
            listener = TcpListener::bind(address).await.ok();
            if listener.is_none() {
                sleep(BIND_AGAIN).await;
                continue;
            }
        }
        let accepted = async {
            match &listener {
                Some(listener) => listener.accept().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            accepted = accepted => if let Ok((inbound, _)) = accepted {
                connections.spawn(passage.clone().pass(inbound));
            },
            changed = passage.weather.changed() => if changed.is_err() {
                return;
            },
        }
        while connections.try_join_next().is_some() {}
    }
}

/// Something on a connection was lost: it cannot go on.
struct Lost;

impl Passage {
    async fn pass(mut self, mut inbound: TcpStream) {
        self.cuts.mark_unchanged();
        let Ok(mut outbound) = TcpStream::connect(self.to).await else {
            return reset(&inbound);
        };
        for stream in [&inbound, &outbound] {
            // What cannot be set is of a connection that has gone already.
            let _ = stream.set_nodelay(true);
        }
        let tap = self.tap.as_ref().map(|tap| tap());
        let broken = {
            let (from_below, to_below) = inbound.split();
            let (from_above, to_above) = outbound.split();
            let up = pump(
                from_below,
                to_above,
                self.weather.clone(),
                Way::Up,
                tap.as_ref(),
            );
            let down = pump(
                from_above,
                to_below,
                self.weather.clone(),
                Way::Down,
                tap.as_ref(),
            );
            tokio::select! {
                both = async { tokio::try_join!(up, down) } => both.is_err(),
                _ = self.cuts.changed() => true,
            }
        };
        if broken {
            reset(&inbound);
            reset(&outbound);
        }
    }
}

/// Makes the end of this connection a reset.
fn reset(stream: &TcpStream) {
    let _ = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

async fn pump(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    mut weather: watch::Receiver<Weather>,
    way: Way,
    tap: Option<&Wiretap>,
) -> Result<(), Lost> {
    let mut piece = vec![0; PIECE];
    loop {
        let length = from.read(&mut piece).await.map_err(|_| Lost)?;
        if length == 0 {
            // The other way may go on.
            let _ = to.shutdown().await;
            return Ok(());
        }
        if let (Some(tap), Way::Up) = (tap, way) {
            tap.up(&piece[..length]);
        }
        loop {
            let now = *weather.borrow_and_update();
            match now {
                Weather::Slow(longest) => sleep(longest.mul_f64(fastrand::f64())).await,
                Weather::Holds(held) if held.covers(way) => {
                    weather.changed().await.map_err(|_| Lost)?;
                    continue;
                }
                Weather::Loses(lost) if lost.covers(way) => {
                    return lose(from, weather, tap.filter(|_| way == Way::Up)).await;
                }
                Weather::Fair | Weather::Refuses | Weather::Holds(_) | Weather::Loses(_) => {}
            }
            break;
        }
        if let (Some(tap), Way::Down) = (tap, way) {
            tap.down(&piece[..length]);
        }
        to.write_all(&piece[..length]).await.map_err(|_| Lost)?;
    }
}

/// Takes whatever comes, to no avail, until the weather changes.
async fn lose(
    mut from: ReadHalf<'_>,
    mut weather: watch::Receiver<Weather>,
    tap: Option<&Wiretap>,
) -> Result<(), Lost> {
    let mut piece = vec![0; PIECE];
    loop {
        tokio::select! {
            _ = weather.changed() => return Err(Lost),
            read = from.read(&mut piece) => match read {
                Ok(0) | Err(_) => return Err(Lost),
                Ok(length) => if let Some(tap) = tap {
                    tap.up(&piece[..length]);
                },
            },
        }
    }
}
