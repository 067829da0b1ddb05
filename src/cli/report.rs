//! What is wrong with a configuration, as compilers say it: `FILE:LINE:COLUMN: error: …`, which editors jump to.

use std::fmt::Write;

use crate::config::{Faults, Finding};

const BOLD: anstyle::Style = anstyle::Style::new().bold();
const ERROR: anstyle::Style = anstyle::AnsiColor::Red.on_default().bold();
const WARNING: anstyle::Style = anstyle::AnsiColor::Yellow.on_default().bold();

/// Prints every fault to standard error, in colours where that is a terminal which takes them.
pub fn faults(Faults(faults): &Faults) {
    for fault in faults {
        print(fault, "error", ERROR);
    }
}

/// The same for what deserves a look.
pub(super) fn warnings(warnings: &[Finding]) {
    for warning in warnings {
        print(warning, "warning", WARNING);
    }
}

fn print(finding: &Finding, word: &str, style: anstyle::Style) {
    let mut place = finding.file.clone();
    if let Some(position) = finding.position {
        let _ = write!(place, ":{position}");
    }
    anstream::eprintln!(
        "{BOLD}{place}:{BOLD:#} {style}{word}:{style:#} {}",
        finding.text()
    );
    if let Some(excerpt) = &finding.excerpt {
        anstream::eprintln!("{excerpt}");
    }
}
