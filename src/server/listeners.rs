//! Which sockets there are, as configurations come and go: opened and prepared first, then put in force together.

use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, watch};

use super::entrance::Entrance;
use super::inherited::Inherited;
use super::listening::{self, Listening};
use super::{BindError, BindFailure, Ending};
use crate::config::{ListenAddress, ListenerConfig};

/// The listeners of a running server, to be changed.
pub struct Listeners {
    listeners: Vec<Listener>,
    opened: mpsc::Sender<Vec<Opened>>,
}

/// One of them.
#[derive(Clone)]
struct Listener {
    config: ListenerConfig,
    address: ListenAddress,
    /// Whether somebody else has opened its socket, and keeps it open.
    is_passed: bool,
    entrance: Arc<ArcSwap<Entrance>>,
    ending: watch::Sender<Option<Ending>>,
}

/// A socket that listens. Connections wait in the kernel until somebody accepts them.
pub(super) struct Opened {
    pub(super) listening: Listening,
    pub(super) address: ListenAddress,
    /// Whether somebody else has opened it, and keeps it open.
    pub(super) is_passed: bool,
    /// What it is like for those who come next.
    pub(super) entrance: Arc<ArcSwap<Entrance>>,
    /// When and how it ends.
    pub(super) ending: watch::Sender<Option<Ending>>,
}

/// All that a server accepts from.
pub(super) struct Openings {
    pub(super) first: Vec<Opened>,
    /// What later configurations add; one at a time, which waits for the one before.
    pub(super) later: mpsc::Receiver<Vec<Opened>>,
}

/// Listeners that can be put in force: sockets are open, certificates are read. Dropped, it changes nothing.
pub struct Prepared {
    next: Vec<(Listener, Arc<Entrance>)>,
    opened: Vec<Opened>,
    /// Files of sockets that get other permissions.
    modes: Vec<(PathBuf, u32)>,
}

impl Listeners {
    /// Opens the first ones, some of which may have been passed.
    pub(super) fn open(
        configs: &[ListenerConfig],
        mut inherited: Inherited,
    ) -> Result<(Self, Openings), BindError> {
        let mut listeners = Vec::with_capacity(configs.len());
        let mut first = Vec::with_capacity(configs.len());
        for config in configs {
            let (listener, opened) = begin(config, &mut inherited)?;
            listeners.push(listener);
            first.push(opened);
        }
        if let Some(address) = inherited.left() {
            return Err(unwanted(address));
        }
        let (opened, later) = mpsc::channel(1);
        Ok((Self { listeners, opened }, Openings { first, later }))
    }

    /// What they are like, in the order of the configuration.
    #[must_use]
    pub fn entrances(&self) -> Vec<Arc<Entrance>> {
        let listeners = self.listeners.iter();
        listeners
            .map(|listener| listener.entrance.load_full())
            .collect()
    }

    /// The addresses that are listened on, in the order of the configuration, with the ports that the kernel chose.
    #[must_use]
    pub fn addresses(&self) -> Vec<ListenAddress> {
        let listeners = self.listeners.iter();
        listeners.map(|one| one.address.clone()).collect()
    }

    /// Opens the sockets that this configuration has and the one in force has not, and reads the certificates of those that
    /// are not as they were. To be called within a tokio runtime.
    ///
    /// # Errors
    /// Where an address cannot be listened on, or certificates cannot be used; and where a passed socket would be left over.
    pub fn prepare(&self, configs: &[ListenerConfig]) -> Result<Prepared, BindError> {
        let mut running: Vec<&Listener> = self.listeners.iter().collect();
        let mut prepared = Prepared {
            next: Vec::with_capacity(configs.len()),
            opened: Vec::new(),
            modes: Vec::new(),
        };
        for config in configs {
            let has_address = |listener: &&Listener| listener.config.address == config.address;
            let (listener, entrance) = match running.iter().position(has_address) {
                Some(index) => {
                    let running = running.remove(index);
                    prepared.modes.extend(other_mode(running, config));
                    kept(running, config)?
                }
                None => {
                    let (listener, opened) = begin(config, &mut Inherited::default())?;
                    prepared.opened.push(opened);
                    let entrance = listener.entrance.load_full();
                    (listener, entrance)
                }
            };
            prepared.next.push((listener, entrance));
        }
        match running.iter().find(|listener| listener.is_passed) {
            Some(listener) => Err(unwanted(&listener.address)),
            None => Ok(prepared),
        }
    }

    /// Lets clients in by what was prepared. Those that were let in already stay: as they came where their listener is another
    /// one now, and until this ending where there is none any more, as in a drain.
    pub async fn change(&mut self, prepared: Prepared, ending: Ending) {
        let Prepared {
            next,
            opened,
            modes,
        } = prepared;
        let stays = |listener: &Listener| {
            next.iter()
                .any(|(kept, _)| Arc::ptr_eq(&kept.entrance, &listener.entrance))
        };
        for listener in self.listeners.iter().filter(|listener| !stays(listener)) {
            tracing::info!(address = %listener.address, "not listening any more");
            listener.ending.send_replace(Some(ending));
        }
        for (path, mode) in modes {
            if let Err(error) = listening::permit(&path, mode) {
                tracing::warn!(path = %path.display(), %error, "the permissions of a socket stay as they are");
            }
        }
        for one in &opened {
            tracing::info!(address = %one.address, "listening");
        }
        let entered = next.into_iter().map(|(listener, entrance)| {
            listener.entrance.store(entrance);
            listener
        });
        self.listeners = entered.collect();
        // A server that has ended opens nothing.
        let _ = self.opened.send(opened).await;
    }
}

/// A listener that goes on, and what it will be like.
fn kept(
    running: &Listener,
    config: &ListenerConfig,
) -> Result<(Listener, Arc<Entrance>), BindError> {
    let entrance = match running.config == *config {
        true => running.entrance.load_full(),
        false => entrance(config)?,
    };
    let listener = Listener {
        config: config.clone(),
        ..running.clone()
    };
    Ok((listener, entrance))
}

/// The file of a socket that this process has made, and the permissions that it is to have now.
fn other_mode(running: &Listener, config: &ListenerConfig) -> Option<(PathBuf, u32)> {
    match &running.address {
        ListenAddress::Unix(path) if !running.is_passed && running.config.mode != config.mode => {
            Some((path.clone(), config.mode))
        }
        _ => None,
    }
}

fn begin(
    config: &ListenerConfig,
    inherited: &mut Inherited,
) -> Result<(Listener, Opened), BindError> {
    // Nobody is to connect where nobody can be served.
    let entrance = Arc::new(ArcSwap::new(entrance(config)?));
    let passed = inherited.take(&config.address);
    let is_passed = passed.is_some();
    let (listening, address) = match passed {
        Some((address, passed)) => Listening::take(passed).map(|taken| (taken, address)),
        None => Listening::begin(&config.address, config.mode),
    }
    .map_err(|error| failed(config, error))?;
    let (ending, _) = watch::channel(None);
    let listener = Listener {
        config: config.clone(),
        address: address.clone(),
        is_passed,
        entrance: Arc::clone(&entrance),
        ending: ending.clone(),
    };
    let opened = Opened {
        listening,
        address,
        is_passed,
        entrance,
        ending,
    };
    Ok((listener, opened))
}

fn entrance(config: &ListenerConfig) -> Result<Arc<Entrance>, BindError> {
    let entrance = Entrance::new(config).map_err(|error| failed(config, error))?;
    Ok(Arc::new(entrance))
}

fn failed(config: &ListenerConfig, reason: impl Into<BindFailure>) -> BindError {
    BindError {
        address: config.address.clone(),
        reason: reason.into(),
    }
}

fn unwanted(address: &ListenAddress) -> BindError {
    BindError {
        address: address.clone(),
        reason: BindFailure::Unwanted,
    }
}
