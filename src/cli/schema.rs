//! `oncegate schema`: the JSON Schema of a configuration file, for editors.

use std::io::{self, Write};

use crate::config;

pub(super) fn run() -> io::Result<()> {
    writeln!(io::stdout(), "{:#}", config::schema())
}
