//! The scripts: one for each op, each a translation of what [`crate::protocol::apply`] says.

use std::fmt::Write;
use std::sync::LazyLock;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

/// A script and the name that the server knows it by.
pub struct Script {
    /// Its text.
    pub text: &'static str,
    /// The SHA-1 of its text, in hexadecimal digits.
    pub sha: String,
}

/// A script that may write although the server's memory is full: it settles what is there, and what is true has to
/// be kept. On a server that is only a replica none of them runs, not even those that ask: its word may be old.
const FLAGS: &str = "#!lua flags=allow-oom\n";

macro_rules! scripts {
    ($($(#[$about:meta])* $name:ident = $text:expr;)*) => {
        $($(#[$about])* pub static $name: LazyLock<Script> = LazyLock::new(|| Script::new($text));)*
    };
}

/// A script of these parts.
macro_rules! parts {
    ($($file:literal)*) => { concat!($(include_str!(concat!("lua/", $file, ".lua"))),*) };
}

scripts! {
    /// Without flags: a full server refuses its first write, and a duplicate is still told what the record says.
    CLAIM = parts!("prelude" "answers" "changes" "claim").to_owned();
    /// A beat.
    RENEW = flagged(parts!("prelude" "changes" "renew"));
    /// A final answer.
    COMPLETE = flagged(parts!("prelude" "changes" "complete"));
    /// Whether an answer stands.
    CONFIRM = flagged(parts!("confirm"));
    /// No answer came.
    MARK_UNKNOWN = flagged(parts!("prelude" "answers" "changes" "mark_unknown"));
    /// A claim is given back.
    RELEASE = flagged(parts!("prelude" "changes" "release"));
    /// Resend takes over.
    TAKE_OVER = flagged(parts!("prelude" "answers" "changes" "take_over"));
    /// An operator's word.
    RESOLVE = flagged(parts!("prelude" "answers" "changes" "resolve"));
    /// An operator's delete.
    FORGET = flagged(parts!("prelude" "changes" "forget"));
    /// What a client would be told.
    LOOK = flagged(parts!("prelude" "answers" "look"));
    /// The whole record.
    READ = flagged(parts!("prelude" "read"));
    /// Takes out of the index what does not belong there.
    TIDY = flagged(parts!("prelude" "changes" "tidy"));
    /// One bucket's part of what is unresolved.
    UNRESOLVED = flagged(parts!("unresolved"));
    /// What stands for the whole store.
    STORE = flagged(parts!("store"));
    /// What changes whenever a completed record was changed by hand.
    EPOCH = flagged(parts!("epoch"));
    /// Which rights the user lacks.
    RIGHTS = flagged(parts!("rights"));
    /// What stands for one bucket of it.
    PART = flagged(parts!("part"));
}

fn flagged(text: &str) -> String {
    format!("{FLAGS}{text}")
}

impl Script {
    fn new(text: String) -> Self {
        let mut sha = String::with_capacity(40);
        for byte in digest(&SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes()).as_ref() {
            let _ = write!(sha, "{byte:02x}");
        }
        // There are a dozen, for as long as the process lives.
        Self {
            text: text.leak(),
            sha,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{MARK_KEEP, RULES};

    #[test]
    fn the_scripts_know_the_rules_and_the_marks_of_the_protocol() {
        assert!(
            CLAIM
                .text
                .contains(&format!("local VERSION = '1.{RULES}'\n"))
        );
        let mark = format!("local MARK_MS = {}\n", MARK_KEEP.as_millis());
        assert!(CLAIM.text.contains(&mark));
    }
}
