//! Stand-in until the composition root is merged.

use crate::config::Config;

/// Why the gateway ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {}

/// Runs the gateway.
///
/// # Errors
/// None yet.
pub async fn run(config: Config) -> Result<(), Error> {
    let _ = config;
    Ok(())
}
