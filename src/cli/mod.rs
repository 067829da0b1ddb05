//! The commands, one file each.

mod check;
pub mod demo;
mod healthcheck;
mod records;
pub mod report;
mod schema;
mod serve;
mod store;
mod summary;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{ArgGroup, Args, Parser, Subcommand};

use crate::app;
use crate::config::Faults;
use crate::telemetry::log::LogError;

/// A reverse proxy that stands in front of any HTTP API and lets each operation through once.
#[derive(Debug, Parser)]
#[command(name = "oncegate", version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the gateway.
    Serve(Serve),
    /// Says every fault of a configuration.
    Check(Check),
    /// Shows what the gateway does: a toy payment API, the gateway before it, and a client that retries.
    Demo {
        /// Ends after the last step instead of staying up.
        #[arg(long)]
        once: bool,
    },
    /// Prints the JSON Schema of a configuration file.
    Schema,
    /// Settles what only an operator can say about a store.
    Store {
        #[command(subcommand)]
        command: Store,
    },
    /// Looks records up and settles those whose outcome is not known, through the admin API of a running gateway.
    Records {
        #[command(subcommand)]
        command: records::Records,
    },
    /// Asks the gateway of a configuration whether it is ready.
    Healthcheck {
        /// The configuration that the gateway runs with.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
enum Store {
    /// Accepts a shared store as it is, after it was emptied or lost a part: what was lost stays lost, and keys of
    /// which nothing is left are new keys.
    Accept {
        /// The configuration that the gateways run with.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
}

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("source").required(true).args(["config", "upstream"])))]
struct Serve {
    /// The configuration.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Runs without a file before this service, `http://HOST:PORT`: POST and PATCH are protected where an
    /// `Idempotency-Key` is sent, the rest passes. Keys are told apart by `Authorization`; all who send none share theirs.
    #[arg(long, value_name = "URL")]
    upstream: Option<String>,
    /// Where clients connect.
    #[arg(
        long,
        value_name = "ADDRESS",
        default_value = "127.0.0.1:8080",
        conflicts_with = "config"
    )]
    listen: String,
    /// Where health and metrics are served.
    #[arg(
        long,
        value_name = "ADDRESS",
        default_value = "127.0.0.1:9090",
        conflicts_with = "config"
    )]
    admin: String,
    /// Where records are kept.
    #[arg(
        long,
        value_name = "URL",
        default_value = "embedded:oncegate.db",
        conflicts_with = "config"
    )]
    store: String,
}

#[derive(Debug, Args)]
struct Check {
    /// The configuration.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Also asks store and upstreams.
    #[arg(long)]
    connect: bool,
    /// Prints the whole configuration in force instead, as TOML: each setting, and where it comes from. Secrets are left
    /// out.
    #[arg(long, conflicts_with = "connect")]
    effective: bool,
}

/// Why a command did not do what it was to do.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The arguments; also a wish for help or for the version.
    #[error(transparent)]
    Usage(#[from] clap::Error),
    /// The configuration.
    #[error(transparent)]
    Configuration(#[from] Faults),
    /// How much is to be logged.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The gateway could not run.
    #[error(transparent)]
    Gateway(#[from] app::Error),
    /// The demo could not be given.
    #[error(transparent)]
    Demo(#[from] demo::DemoError),
    /// Store or upstreams do not answer.
    #[error("{0}")]
    Unreachable(String),
    /// A record could not be shown or settled.
    #[error("{0}")]
    Records(String),
    /// The configuration lets nobody see records.
    #[error("{0}")]
    NoToken(String),
    /// The gateway is not ready.
    #[error("not ready: {0}")]
    Unhealthy(String),
    /// Nothing can be printed.
    #[error("standard output cannot be written: {0}")]
    Output(#[from] std::io::Error),
}

/// Runs the command that these arguments name, the program's name first.
///
/// # Errors
/// [`Failure`], which says no more than that: how it is printed and which exit code it has is for `main`.
pub async fn run(arguments: impl IntoIterator<Item = OsString>) -> Result<ExitCode, Failure> {
    match Arguments::try_parse_from(arguments)?.command {
        Command::Serve(arguments) => Box::pin(serve::run(arguments)).await?,
        Command::Check(arguments) => check::run(&arguments).await?,
        Command::Demo { once } => return Ok(Box::pin(demo::run(once)).await?),
        Command::Schema => schema::run()?,
        Command::Store {
            command: Store::Accept { config },
        } => store::accept(&config).await?,
        Command::Records { command } => Box::pin(records::run(command)).await?,
        Command::Healthcheck { config } => healthcheck::run(&config).await?,
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_arguments_are_well_defined() {
        Arguments::command().debug_assert();
    }
}
