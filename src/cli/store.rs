//! `oncegate store`: what only an operator can say about a store.

use std::io::{self, Write};
use std::path::Path;

use super::Failure;
use crate::app;
use crate::config::Config;

/// Accepts a shared store as it is.
pub(super) async fn accept(config: &Path) -> Result<(), Failure> {
    let loaded = Config::load(config)?;
    let accepted = app::accept_store(&loaded.config.store).await?;
    let buckets = accepted.buckets;
    writeln!(
        io::stdout(),
        "the store is accepted as it is; {buckets} of its 256 parts were not those of this store"
    )?;
    Ok(())
}
