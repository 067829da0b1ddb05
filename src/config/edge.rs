//! What deserves a look where strangers reach the gateway: `profile = "edge"`.

use super::StoreLocation;
use super::file::{ConfigFile, ListenerFile, StoreFile};
use super::finding::Findings;
use super::listener::ListenAddress;
use super::words::Profile;

/// Warns of what an edge should not be without.
pub(super) fn look(file: &ConfigFile, findings: &mut Findings) {
    if file.profile.value() != Some(Profile::Edge) {
        return;
    }
    if let Some(store) = file.store.get() {
        sealing(store, findings);
    }
    for listener in file.listeners.get().into_iter().flatten() {
        exposure(listener, findings);
    }
}

/// Recorded answers of many clients lie on servers that others administer.
fn sealing(store: &StoreFile, findings: &mut Findings) {
    let is_shared = matches!(store.url.get(), Some(StoreLocation::Redis(_)));
    let is_plain = store.encryption_keys.get().is_some_and(Vec::is_empty);
    if is_shared && is_plain {
        let message = "recorded answers lie readable on servers of their own (no `encryption_keys`); give a key to have \
                       them encrypted, unless nobody else reads that store";
        findings.warn(&store.url.place, message.to_owned(), &[]);
    }
}

/// Whoever reaches an address of a network does so in the clear, or by a proxy that is not believed.
fn exposure(listener: &ListenerFile, findings: &mut Findings) {
    let address = listener.address.get().and_then(ListenAddress::tcp);
    let is_open = address.is_some_and(|address| !address.ip().is_loopback());
    let has_tls = listener.tls.get().is_none_or(Option::is_some);
    let has_proxies = listener
        .trusted_proxies
        .get()
        .is_none_or(|proxies| !proxies.is_empty());
    if is_open && !has_tls && !has_proxies {
        let message = "takes keys and credentials in the clear; give it `tls`, or name the proxies that do TLS before it \
                       in `trusted_proxies`";
        findings.warn(&listener.address.place, message.to_owned(), &[]);
    }
}
