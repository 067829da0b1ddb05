//! `oncegate serve`: runs the gateway, from a file or from a few arguments.

use super::{Failure, Serve};
use crate::app;
use crate::config::{Config, Loaded};
use crate::telemetry::log;

pub(super) async fn run(arguments: Serve) -> Result<(), Failure> {
    let Serve {
        config,
        upstream,
        listen,
        admin,
        store,
    } = arguments;
    let Loaded { config, warnings } = match config {
        Some(path) => Config::load(&path)?,
        None => {
            let upstream = upstream.unwrap_or_default();
            let config = Config::quick(&upstream, &listen, &admin, &store)?;
            Loaded {
                config,
                warnings: Vec::new(),
            }
        }
    };
    let log = log::start()?;
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    let run = app::run(config, &log).await;
    log.finish();
    Ok(run?)
}
