//! What the metrics say of parts that know nothing of metrics: bounds that are set once, and counts that are mirrored.

use std::sync::Arc;

use super::entrances::Entrances;
use crate::config::{Config, Limits, UpstreamConfig};
use crate::gateway::Gateway;
use crate::server::{Limit, Refused, Server};
use crate::store::Store;
use crate::telemetry::log::Log;
use crate::telemetry::{ConnectionRefused, LimitOver, Metrics};

/// The metrics of a configuration, its bounds among them.
pub(super) fn metrics(config: &Config) -> Metrics {
    let routes: Vec<&str> = config.routes.iter().map(|r| r.name.as_str()).collect();
    let upstreams: Vec<&str> = config.upstreams.iter().map(|u| u.name.as_str()).collect();
    let metrics = Metrics::new(&routes, &upstreams);
    metrics.store.limit_bytes.set(config.store.max_size);
    set_limits(&metrics, &config.limits, &config.upstreams);
    metrics
}

/// Sets the gauges that say what the bounds are.
pub(super) fn set_limits(metrics: &Metrics, limits: &Limits, upstreams: &[UpstreamConfig]) {
    metrics.connections_limit.set(limits.max_connections as u64);
    for (index, upstream) in upstreams.iter().enumerate() {
        let limit = &metrics.upstream(index).in_flight_limit;
        limit.set(upstream.max_in_flight as u64);
    }
}

/// Sets the gauges that mirror what other parts hold; called before each scrape.
pub(super) fn refresh(
    gateway: &Gateway,
    store: &Arc<dyn Store>,
    server: &Server,
    entrances: &Arc<Entrances>,
    log: &Log,
    metrics: &Arc<Metrics>,
) -> crate::admin::Refresh {
    let (gateway, store, metrics) = (gateway.clone(), Arc::clone(store), Arc::clone(metrics));
    let (server, log) = (server.counters(), log.clone());
    let entrances = Arc::clone(entrances);
    Arc::new(move || {
        gateway.mirror();
        let usage = store.usage();
        metrics.store.records.set(usage.records);
        metrics.store.bytes.set(usage.bytes);
        metrics.store.limit_bytes.set(usage.limit_bytes);
        metrics.store.aged_out.mirror(usage.aged_out);
        let stats = server.snapshot();
        metrics.connections.set(stats.connections);
        metrics.connections_total.mirror(stats.accepted);
        metrics.accept_failures.mirror(stats.accept_failures);
        for (reason, refused) in Refused::ALL.into_iter().zip(stats.refused) {
            let reason = match reason {
                Refused::Full => ConnectionRefused::MaxConnections,
                Refused::Address => ConnectionRefused::MaxConnectionsPerAddress,
            };
            metrics.connections_refused.of(reason).mirror(refused);
        }
        for (limit, closed) in Limit::ALL.into_iter().zip(stats.closed) {
            metrics.client_timeouts.of(limit_over(limit)).mirror(closed);
        }
        metrics.http2_floods.mirror(stats.floods);
        entrances.mirror();
        metrics.log_lines_dropped.mirror(log.dropped());
    })
}

/// What metrics call a limit by.
fn limit_over(limit: Limit) -> LimitOver {
    match limit {
        Limit::FirstByte => LimitOver::FirstByte,
        Limit::Headers => LimitOver::Headers,
        Limit::BodyIdle => LimitOver::BodyIdle,
        Limit::MinReceiveRate => LimitOver::MinReceiveRate,
        Limit::MinSendRate => LimitOver::MinSendRate,
        Limit::KeepAlive => LimitOver::KeepAlive,
        Limit::TunnelIdle => LimitOver::TunnelIdle,
    }
}
