//! The store: what a shared one needs, what one of a single process has no use for, and its keys.

use std::collections::HashMap;

use super::file::{EncryptionKeyFile, StoreFile};
use super::finding::Findings;
use super::redis;
use super::secret;
use super::{EncryptionKey, StoreConfig, StoreLocation};
use crate::identity::IdKeyBytes;

/// What a store may hold unless it is set, in bytes.
pub(super) const MAX_SIZE: u64 = 10 << 30;

/// The same for a store in memory.
pub(super) const MAX_SIZE_IN_MEMORY: u64 = 256 << 20;

pub(super) fn store(file: Option<&StoreFile>, findings: &mut Findings) -> Option<StoreConfig> {
    let file = file?;
    // Both are read before either is missed: every secret that cannot be read is said at once.
    let id_key = file.id_key.get().and_then(|secret| match secret {
        None => Some(None),
        Some(secret) => {
            let key = secret::key(secret, &file.id_key.place, findings)?;
            Some(Some(IdKeyBytes(key)))
        }
    });
    let encryption_keys = file
        .encryption_keys
        .get()
        .and_then(|keys| encryption_keys(keys, findings));
    let location = match file.url.value()? {
        StoreLocation::Redis(redis) => {
            shared(file, findings);
            StoreLocation::Redis(Box::new(redis::completed(*redis, file, findings)?))
        }
        location => {
            alone(file, findings);
            location
        }
    };
    let max_size = match (file.max_size.value()?, &location) {
        // The servers have a limit of their own.
        (_, StoreLocation::Redis(_)) => 0,
        (Some(size), _) => size.0.0,
        (None, StoreLocation::Memory) => MAX_SIZE_IN_MEMORY,
        (None, StoreLocation::Embedded(_)) => MAX_SIZE,
    };
    Some(StoreConfig {
        location,
        timeout: file.timeout.get()?.0,
        max_size,
        namespace: file
            .namespace
            .value()?
            .map(|namespace| namespace.0)
            .unwrap_or_default(),
        id_key: id_key?,
        encryption_keys: encryption_keys?,
    })
}

/// What a store needs that gateways share, and what it cannot have.
fn shared(file: &StoreFile, findings: &mut Findings) {
    let mut needed = Vec::new();
    if let Some(None) = file.namespace.get() {
        needed.push("`store.namespace`, which goes before every key");
    }
    if let Some(None) = file.id_key.get() {
        needed.push("`store.id_key`, the same for every gateway");
    }
    if !needed.is_empty() {
        let message = format!("is shared by gateways; it needs {}", needed.join(", and "));
        findings.whole(&file.url.place, message);
    }
    if let Some(Some(_)) = file.max_size.get() {
        let message = "has no effect on servers of their own; set their maxmemory, with the policy noeviction";
        findings.whole(&file.max_size.place, message.to_owned());
    }
}

/// What a store of one process has no use for.
fn alone(file: &StoreFile, findings: &mut Findings) {
    let message = "is for stores on servers";
    if let Some(Some(_)) = file.password.get() {
        findings.whole(&file.password.place, message.to_owned());
    }
    if let Some(Some(_)) = file.sentinel_password.get() {
        findings.whole(&file.sentinel_password.place, message.to_owned());
    }
    if let Some(Some(_)) = file.sentinel_user.get() {
        findings.whole(&file.sentinel_user.place, message.to_owned());
    }
    if let Some(false) = file.begin.get() {
        findings.whole(&file.begin.place, message.to_owned());
    }
    if let Some(Some(_)) = file.replicas_ack.get() {
        findings.whole(&file.replicas_ack.place, message.to_owned());
    }
    if let Some(Some(_)) = file.tls.get() {
        findings.whole(&file.tls.place, message.to_owned());
    }
}

fn encryption_keys(
    files: &[EncryptionKeyFile],
    findings: &mut Findings,
) -> Option<Vec<EncryptionKey>> {
    let mut first_of = HashMap::new();
    let keys: Vec<Option<EncryptionKey>> = files
        .iter()
        .map(|file| {
            let secret = file.key.get();
            let bytes = secret.and_then(|secret| secret::key(secret, &file.key.place, findings));
            let id = file.id.value()?.0;
            if let Some(first) = first_of.get(&id) {
                let message = format!("{id:?} names two keys");
                findings.conflict(&file.id.place, message, &[*first]);
                return None;
            }
            first_of.insert(id.clone(), &file.id.place);
            Some(EncryptionKey { id, bytes: bytes? })
        })
        .collect();
    keys.into_iter().collect()
}
