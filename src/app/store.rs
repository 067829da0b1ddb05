//! The store that a configuration means: opened for a gateway and watched while it runs, or asked by a command.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::time::{sleep, timeout};

use super::unresolved::Census;
use super::{Error, absolute};
use crate::config::{EncryptionKey, RedisConfig, StoreConfig, StoreLocation};
use crate::gateway::Gateway;
use crate::identity::IdKeyBytes;
use crate::store::{
    Accepted, ContactError, Embedded, Found, Inspected, Memory, Redis, Sealing, SealingKey, Store,
    Time, system_clock,
};
use crate::telemetry::StoreHealth;

/// How often a store is asked whether it is there, until it was there once.
const FIRST_PINGS_EVERY: Duration = Duration::from_millis(200);
/// How long a start waits for a store on servers, to hear whether it is the right one.
const FIRST_CONTACT: Duration = Duration::from_secs(3);
/// How often the store is asked once it was there.
const PINGS_EVERY: Duration = Duration::from_secs(5);

/// The store as the configuration means it, with what keys its record ids.
///
/// # Errors
/// Where it cannot be opened, or is another one. One on servers that do not answer yet is no error.
pub(super) async fn open(config: &StoreConfig) -> Result<(Arc<dyn Store>, IdKeyBytes), Error> {
    let (store, id_key) = unsealed(config).await?;
    Ok((sealed(store, &config.encryption_keys), id_key))
}

async fn unsealed(config: &StoreConfig) -> Result<(Arc<dyn Store>, IdKeyBytes), Error> {
    match &config.location {
        StoreLocation::Memory => {
            let id_key = match &config.id_key {
                Some(id_key) => id_key.clone(),
                None => random_id_key()?,
            };
            tracing::info!("records are kept in memory, for as long as this process lives");
            let store = Memory::new(config.max_size, system_clock());
            Ok((Arc::new(store), id_key))
        }
        StoreLocation::Embedded(path) => {
            let (path, max_size) = (absolute(path), config.max_size);
            let id_key = config.id_key.as_ref().map(|id_key| id_key.0);
            let opened = path.clone();
            let (store, id_key) = tokio::task::spawn_blocking(move || {
                Embedded::open(&opened, id_key, max_size, system_clock())
            })
            .await??;
            tracing::info!(
                path = %path.display(),
                "records are kept in a file; an embedded store serves a single process",
            );
            say_found(store.found());
            Ok((Arc::new(store), IdKeyBytes(id_key)))
        }
        StoreLocation::Redis(redis) => shared(config, redis).await,
    }
}

/// A store on servers. Where they do not answer the gateway starts all the same, and is ready once they do; where they
/// answer that this is not the store that the configuration means, it does not start.
async fn shared(
    config: &StoreConfig,
    redis: &RedisConfig,
) -> Result<(Arc<dyn Store>, IdKeyBytes), Error> {
    let (store, id_key) = on_servers(config, redis)?;
    let first = async {
        loop {
            match store.contact().await {
                Err(ContactError::Store(error)) => tracing::debug!(%error, "no contact yet"),
                contact => break contact,
            }
            sleep(FIRST_PINGS_EVERY).await;
        }
    };
    match timeout(FIRST_CONTACT, first).await {
        Ok(Ok(())) => store.warn().await,
        Ok(Err(error @ ContactError::OtherIdKey)) => return Err(Error::Contact(error)),
        Ok(Err(error)) => tracing::error!(%error, "the store cannot be used as it is"),
        Err(_) => tracing::warn!("the store does not answer yet"),
    }
    let namespace = &config.namespace;
    tracing::info!(
        namespace,
        "records are kept on servers, which gateways may share"
    );
    Ok((Arc::new(store), id_key))
}

fn on_servers(config: &StoreConfig, redis: &RedisConfig) -> Result<(Redis, IdKeyBytes), Error> {
    let id_key = config.id_key.clone().ok_or(Error::NoIdKey)?;
    // Where there is one already it is the same.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let (namespace, timeout) = (&config.namespace, config.timeout);
    let store = Redis::new(redis, namespace, &id_key, timeout, Time::Server);
    Ok((store, id_key))
}

/// The store, with its responses encrypted at rest where there is a key to do it with.
fn sealed(store: Arc<dyn Store>, keys: &[EncryptionKey]) -> Arc<dyn Store> {
    if keys.is_empty() {
        return store;
    }
    let keys: Vec<_> = keys
        .iter()
        .map(|key| SealingKey {
            id: key.id.clone(),
            bytes: key.bytes,
        })
        .collect();
    tracing::info!(key = keys[0].id, "recorded responses are encrypted at rest");
    Arc::new(Sealing::new(store, &keys))
}

/// What the last run left without a final outcome.
fn say_found(Found { claims, unknown }: Found) {
    if claims > 0 || unknown > 0 {
        tracing::warn!(
            claims,
            unknown,
            "the store holds operations without a known outcome; claims were open when it was used last, and read as \
             unknown once a lease is over",
        );
    }
}

fn random_id_key() -> Result<IdKeyBytes, Error> {
    let mut bytes = [0; 32];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| Error::Randomness)?;
    Ok(IdKeyBytes(bytes))
}

/// Asks the store from time to time, so that readiness, `store_up` and what is unresolved are true without traffic,
/// too. What requests hear of the store counts as well.
pub(super) async fn watch(
    gateway: Gateway,
    census: Arc<ArcSwap<Census>>,
    health: Arc<StoreHealth>,
) {
    let mut counting = census.load_full();
    loop {
        // What it says is heard by the health itself.
        if gateway.ping_store().await.is_ok() {
            let in_force = census.load_full();
            // Where the store does not say all, the gauges stay as they are, those of routes that are gone among them.
            if let Ok(counts) = in_force.count(&gateway).await {
                if !Arc::ptr_eq(&in_force, &counting) {
                    counting.end();
                    counting = in_force;
                }
                counting.show(&counts);
            }
        }
        sleep(match health.was_contacted() {
            true => PINGS_EVERY,
            false => FIRST_PINGS_EVERY,
        })
        .await;
    }
}

/// Accepts a store on servers as it is, after it lost records.
///
/// # Errors
/// Where it is no such store, or cannot be asked.
pub async fn accept_store(config: &StoreConfig) -> Result<Accepted, Error> {
    let StoreLocation::Redis(redis) = &config.location else {
        return Err(Error::NotOnServers);
    };
    let (store, _) = on_servers(config, redis)?;
    let accepting = timeout(FIRST_CONTACT, store.accept()).await;
    accepting
        .map_err(|_| Error::NoAnswer)?
        .map_err(Error::Contact)
}

/// Asks a store on servers whether it is the one that the configuration means, and what there is to say of it; of other
/// stores there is nothing to ask.
///
/// # Errors
/// Why it is not.
pub async fn ask_store(config: &StoreConfig) -> Result<Inspected, Error> {
    let StoreLocation::Redis(redis) = &config.location else {
        return Ok(Inspected::default());
    };
    let (store, _) = on_servers(config, redis)?;
    let asking = async {
        let inspected = store.inspect().await?;
        // Who lacks rights may not be able to count.
        let few = match inspected.missing.is_empty() {
            true => store.missing_replicas().await?,
            false => None,
        };
        Ok((inspected, few))
    };
    let asked = timeout(FIRST_CONTACT, asking).await;
    match asked
        .map_err(|_| Error::NoAnswer)?
        .map_err(Error::Contact)?
    {
        (inspected, None) => Ok(inspected),
        (_, Some(replicas)) => Err(Error::FewReplicas {
            replicas,
            replicas_ack: redis.replicas_ack,
        }),
    }
}
