//! The lifecycle of the process: arguments in, exit code out.

use std::process::ExitCode;

use oncegate::cli::{self, Failure};

/// Records and buffers come and go on every thread, and the allocator of a static image's C library is slow.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    // Of the buffers that a connection has ready, an idle one has written to a small part, and huge pages would make all of
    // them resident. A kernel without them has nothing to switch off.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    match Box::pin(cli::run(std::env::args_os())).await {
        Ok(code) => code,
        Err(failure) => {
            let code = exit_code(&failure);
            // Usage has its own way of being said, and faults say their file and line first.
            match failure {
                Failure::Usage(usage) => {
                    // There is nobody left to tell that it could not be printed.
                    let _ = usage.print();
                }
                Failure::Configuration(faults) => cli::report::faults(&faults),
                // Each error's text says its causes.
                failure => eprintln!("oncegate: {failure}"),
            }
            code
        }
    }
}

/// 0, 1 for what failed while running, 2 for usage, 78 (`EX_CONFIG` of sysexits.h) for a bad or missing
/// configuration.
fn exit_code(failure: &Failure) -> ExitCode {
    match failure {
        // Asking for help or the version is no failure.
        Failure::Usage(usage) if !usage.use_stderr() => ExitCode::SUCCESS,
        Failure::Usage(_) => ExitCode::from(2),
        Failure::Configuration(_) | Failure::Log(_) | Failure::NoToken(_) => ExitCode::from(78),
        Failure::Gateway(_)
        | Failure::Demo(_)
        | Failure::Unreachable(_)
        | Failure::Records(_)
        | Failure::Unhealthy(_)
        | Failure::Output(_) => ExitCode::FAILURE,
    }
}
