//! `oncegate check`: says every fault of a configuration, what was understood, and whether those answer that it
//! names.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;
use std::time::Instant;

use super::{Check, Failure, report, summary};
use crate::app;
use crate::config::{Config, Loaded, StoreConfig, StoreLocation, UpstreamConfig, UpstreamEndpoint};
use crate::store::{Inspected, Redis};
use crate::upstream::{Spoken, Upstream};

pub(super) async fn run(arguments: &Check) -> Result<(), Failure> {
    let Loaded {
        config,
        warnings,
        effective,
        ..
    } = Config::load(&arguments.config)?;
    report::warnings(&warnings);
    let mut stdout = io::stdout();
    if arguments.effective {
        return Ok(write!(stdout, "{effective}")?);
    }
    writeln!(stdout, "{}: ok", arguments.config.display())?;
    write!(stdout, "{}", summary::of(&config))?;
    if arguments.connect {
        connect(&config, &mut stdout).await?;
    }
    Ok(())
}

/// Asks everything that the configuration names, and says of each how that went.
async fn connect(config: &Config, stdout: &mut impl Write) -> Result<(), Failure> {
    let mut silent = Vec::new();
    let mut note = |asked: Result<String, String>| match asked {
        Ok(said) => writeln!(stdout, "connect: {said}"),
        Err(wrong) => {
            silent.push(wrong);
            Ok(())
        }
    };
    match &config.store.location {
        StoreLocation::Redis(redis) => {
            let rights = Redis::rights_for_a_shell(redis, &config.store.namespace);
            note(Ok(format!("the store's user needs no more than: {rights}")))?;
            match servers(&config.store).await {
                Ok(said) => said.into_iter().try_for_each(|line| note(Ok(line)))?,
                Err(wrong) => note(Err(wrong))?,
            }
        }
        location => note(store(location))?,
    }
    let operators = config.operators.as_ref();
    if let Some(path) = operators.and_then(|operators| operators.audit_log.as_deref()) {
        note(writable("audit log", path, OpenOptions::new().append(true)))?;
    }
    for upstream in &config.upstreams {
        for endpoint in &upstream.endpoints {
            note(ask(upstream, endpoint).await)?;
        }
    }
    if silent.is_empty() {
        Ok(())
    } else {
        Err(Failure::Unreachable(silent.join("\noncegate: ")))
    }
}

/// Whether the store on servers could be used.
async fn servers(store: &StoreConfig) -> Result<Vec<String>, String> {
    let Inspected {
        missing,
        lacking,
        doubts,
        is_begun,
    } = app::ask_store(store)
        .await
        .map_err(|error| format!("the store: {error}"))?;
    if !missing.is_empty() {
        let missing: Vec<String> = missing.iter().map(|name| format!("+{name}")).collect();
        let (missing, lacking) = (missing.join(" "), lacking.join(", "));
        return Err(format!(
            "the store: its user lacks rights to commands, keys or channels at {lacking}: {missing}"
        ));
    }
    let mut said = vec!["the store answers, and its user has these rights".to_owned()];
    if !is_begun {
        said.push(
            "warning: there is no store under this namespace yet; the first gateway begins one. Had there been \
             one, its records are gone"
                .to_owned(),
        );
    }
    said.extend(doubts.iter().map(|doubt| format!("warning: {doubt}")));
    Ok(said)
}

/// Whether the store's file could be used. It is neither made nor opened as a store, so that a gateway may be running
/// on it.
fn store(location: &StoreLocation) -> Result<String, String> {
    let StoreLocation::Embedded(path) = location else {
        return Ok("the store is in memory: nothing to ask".to_owned());
    };
    writable("store", path, OpenOptions::new().read(true).write(true))
}

/// Whether a file can be opened so or, where there is none, be made. Nothing is written, and none is made: it would be of
/// the user who checks.
fn writable(what: &str, path: &Path, how: &OpenOptions) -> Result<String, String> {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let shown = path.display();
    match how.open(&path) {
        Ok(_) => Ok(format!("the {what} {shown} is there, and can be written")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // A file without a name, gone as soon as it is closed.
            let directory = path.parent().unwrap_or(Path::new("."));
            match tempfile::tempfile_in(directory) {
                Ok(_) => Ok(format!(
                    "the {what} {shown} is not there yet; it can be made"
                )),
                Err(error) => Err(format!("the {what} {shown}: it cannot be made: {error}")),
            }
        }
        Err(error) => Err(format!("the {what} {shown}: {error}")),
    }
}

/// Whether an endpoint takes connections. It is sent nothing: what a request would do is known to the service alone.
async fn ask(upstream: &UpstreamConfig, endpoint: &UpstreamEndpoint) -> Result<String, String> {
    let name = &upstream.name;
    let begun = Instant::now();
    match Upstream::try_out(upstream, endpoint).await {
        Ok(spoken) => {
            let took = begun.elapsed().as_millis();
            let protocol = match spoken {
                Spoken::Http1 => "",
                Spoken::Http2 => " of HTTP/2",
            };
            Ok(format!(
                "the upstream {name} at {endpoint} takes connections{protocol} ({took} ms)"
            ))
        }
        Err(error) if error.kind() == io::ErrorKind::TimedOut => Err(format!(
            "the upstream {name} at {endpoint}: no connection within connect_timeout ({:?})",
            upstream.connect_timeout
        )),
        Err(error) => Err(format!("the upstream {name} at {endpoint}: {error}")),
    }
}
