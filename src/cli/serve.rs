//! `oncegate serve`: runs the gateway, from a file or from a few arguments.

use super::{Failure, Serve};
use crate::app;
use crate::config::Config;
use crate::telemetry::log;

pub(super) async fn run(arguments: Serve) -> Result<(), Failure> {
    let Serve {
        config,
        upstream,
        listen,
        admin,
        store,
    } = arguments;
    let loaded = match &config {
        Some(path) => Config::load(path)?,
        None => {
            let upstream = upstream.unwrap_or_default();
            Config::quick(&upstream, &listen, &admin, &store)?
        }
    };
    let log = log::start()?;
    // The arguments are nothing to warn of.
    for warning in loaded.warnings.iter().filter(|_| config.is_some()) {
        tracing::warn!("{warning}");
    }
    let run = app::run(loaded, config.as_deref(), &log).await;
    log.finish();
    Ok(run?)
}
