//! `oncegate check`: says every fault of a configuration, and whether those answer that it names.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;

use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{Check, Failure};
use crate::app;
use crate::config::{Config, Loaded, StoreLocation, UpstreamConfig};

pub(super) async fn run(arguments: &Check) -> Result<(), Failure> {
    let Loaded { config, warnings } = Config::load(&arguments.config)?;
    let mut stderr = io::stderr();
    for warning in warnings {
        writeln!(stderr, "{warning} (warning)")?;
    }
    if arguments.connect {
        connect(&config).await?;
    }
    writeln!(io::stdout(), "{}: ok", arguments.config.display())?;
    Ok(())
}

async fn connect(config: &Config) -> Result<(), Failure> {
    let mut silent = Vec::new();
    silent.extend(store(&config.store.location).err());
    if let Err(error) = app::ask_store(&config.store).await {
        silent.push(format!("the store: {error}"));
    }
    for upstream in &config.upstreams {
        silent.extend(endpoints(upstream).await);
    }
    if silent.is_empty() {
        Ok(())
    } else {
        Err(Failure::Unreachable(silent.join("\noncegate: ")))
    }
}

/// Whether the store's file could be used. It is neither made nor opened as a store, so that a gateway may be running on
/// it.
fn store(location: &StoreLocation) -> Result<(), String> {
    let StoreLocation::Embedded(path) = location else {
        return Ok(());
    };
    let directory = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let usable = match OpenOptions::new().read(true).write(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            std::fs::read_dir(directory.unwrap_or(Path::new("."))).map(drop)
        }
        opened => opened.map(drop),
    };
    usable.map_err(|error| format!("the store {}: {error}", path.display()))
}

/// What is wrong with the endpoints of one upstream.
async fn endpoints(upstream: &UpstreamConfig) -> Vec<String> {
    let mut silent = Vec::new();
    for endpoint in &upstream.endpoints {
        let address = (endpoint.host.as_str(), endpoint.port);
        let wrong = match timeout(upstream.connect_timeout, TcpStream::connect(address)).await {
            Ok(Ok(_)) => continue,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no connection within connect_timeout".to_owned(),
        };
        let (name, host, port) = (&upstream.name, &endpoint.host, endpoint.port);
        silent.push(format!(
            "the upstream {name} at {host} port {port}: {wrong}"
        ));
    }
    silent
}
