//! Holds the floors of the house: a module imports only from floors below its own, and the lowest three name no
//! runtime, no socket, no file, no clock and no randomness.
//!
//! It reads tokens, so that comments and texts do not count, while code inside of macros and tests does.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, Ident, TokenStream, TokenTree};

/// From top to bottom. A module imports from none of its own floor but itself, and from none above.
const FLOORS: [&[&str]; 10] = [
    &["main"],
    &["cli"],
    &["app"],
    &["gateway", "admin"],
    &["server", "upstream", "store", "telemetry"],
    &["config"],
    &["process"],
    &["route"],
    &["identity"],
    &["protocol"],
];

/// The modules whose answers depend on their arguments alone.
const PURE: [&str; 3] = ["identity", "protocol", "route"];

/// What a pure module names nowhere, not even in its tests.
const IMPURE: [&[&str]; 12] = [
    &["tokio"],
    &["hyper_util"],
    &["socket2"],
    &["mio"],
    &["std", "net"],
    &["std", "fs"],
    &["std", "thread"],
    &["std", "time", "Instant"],
    &["std", "time", "SystemTime"],
    &["rand"],
    &["getrandom"],
    &["aws_lc_rs", "rand"],
];

/// Clocks under whatever path they are reached.
const CLOCKS: [&str; 2] = ["Instant", "SystemTime"];

/// Keywords that may stand right before a path from the global root, `::tokio`.
const BEFORE_PATHS: [&str; 11] = [
    "use", "in", "as", "return", "impl", "dyn", "for", "where", "mut", "if", "match",
];

#[test]
fn every_module_imports_only_from_floors_below_its_own() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut faults = String::new();
    let mut files = 0;
    for file in rust_files(&src) {
        let name = file
            .strip_prefix(&src)
            .expect("the walk began there")
            .to_str()
            .expect("module names are ASCII");
        let text = fs::read_to_string(&file).expect("a source file can be read");
        for fault in faults_of(name, &text) {
            let _ = writeln!(faults, "src/{name}:{fault}");
        }
        files += 1;
    }
    assert!(files > 0, "no source files under {}", src.display());
    assert!(faults.is_empty(), "\n{faults}");
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).expect("a source folder can be read") {
        let path = entry.expect("a source folder can be read").path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

/// What is wrong with one file, given by its path below `src/`; each fault begins with its line.
fn faults_of(file: &str, text: &str) -> Vec<String> {
    let module = module_of(file);
    let own = match module.first() {
        Some(own) => own.clone(),
        None if file == "main.rs" => "main".to_owned(),
        // The root declares the modules; what it re-exported would be on no floor when it is used.
        None => return Vec::new(),
    };
    let Some(own_floor) = floor_of(&own) else {
        return vec![format!(
            "1: `{own}` is on no floor; give it one in tests/floors.rs"
        )];
    };
    let tokens = match text.parse::<TokenStream>() {
        Ok(tokens) => tokens,
        Err(error) => return vec![format!("1: {error}")],
    };
    let mut names = Vec::new();
    collect_names(tokens, &module, &mut names);
    let pure = PURE.contains(&own.as_str());
    let mut faults: Vec<String> = names
        .iter()
        .filter_map(|name| {
            let fault = match &name.path {
                Named::Here(path) => floor_fault(&own, own_floor, path),
                Named::Elsewhere(path) if pure => purity_fault(&own, path),
                Named::Elsewhere(_) => None,
            }?;
            Some(format!("{}: {fault}", name.line))
        })
        .collect();
    faults.dedup();
    faults
}

/// `store/redis/mod.rs` is `[store, redis]`; the roots of library and binary are `[]`.
fn module_of(file: &str) -> Vec<String> {
    let path = file.trim_end_matches(".rs");
    let mut module: Vec<String> = path.split('/').map(str::to_owned).collect();
    let is_root = matches!(path, "lib" | "main");
    if is_root || module.last().is_some_and(|last| last == "mod") {
        module.pop();
    }
    module
}

fn floor_of(module: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.contains(&module))
}

fn floor_fault(own: &str, own_floor: usize, path: &[String]) -> Option<String> {
    let other = path.first()?;
    if other == own {
        return None;
    }
    if other == "*" {
        return Some(format!("`{own}` takes the whole crate root"));
    }
    match floor_of(other) {
        None => Some(format!(
            "`{own}` names `crate::{other}`, which is on no floor"
        )),
        Some(floor) if floor == own_floor => {
            Some(format!("`{own}` imports from `{other}` on its own floor"))
        }
        Some(floor) if floor < own_floor => {
            Some(format!("`{own}` imports from `{other}` on a floor above"))
        }
        Some(_) => None,
    }
}

fn purity_fault(own: &str, path: &[String]) -> Option<String> {
    let is_clock = path.iter().any(|name| CLOCKS.contains(&name.as_str()));
    let is_impure = IMPURE.iter().any(|impure| match path {
        [whole @ .., last] if last == "*" && !whole.is_empty() => {
            starts_with(impure, whole) || starts_with(whole, impure)
        }
        _ => starts_with(path, impure),
    });
    (is_clock || is_impure).then(|| format!("`{own}` is pure and names `{}`", path.join("::")))
}

fn starts_with(path: &[impl AsRef<str>], start: &[impl AsRef<str>]) -> bool {
    path.len() >= start.len()
        && path
            .iter()
            .zip(start)
            .all(|(ours, theirs)| ours.as_ref() == theirs.as_ref())
}

/// A path as it is written somewhere, resolved.
struct Name {
    line: usize,
    path: Named,
}

enum Named {
    /// From the crate's root on.
    Here(Vec<String>),
    /// Another crate, a local name or a keyword.
    Elsewhere(Vec<String>),
}

/// Every path in `tokens`, which stand in `module`.
fn collect_names(tokens: TokenStream, module: &[String], names: &mut Vec<Name>) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let mut at = 0;
    while at < tokens.len() {
        match (&tokens[at], tokens.get(at + 1), tokens.get(at + 2)) {
            (
                TokenTree::Ident(word),
                Some(TokenTree::Ident(inner)),
                Some(TokenTree::Group(body)),
            ) if word == "mod" && body.delimiter() == Delimiter::Brace => {
                let inner = [module, &[inner.to_string()]].concat();
                collect_names(body.stream(), &inner, names);
                at += 3;
            }
            (TokenTree::Ident(word), ..) if !begins_no_path(word, &tokens, at) => {
                at = collect_path(&tokens, at, &[], module, names);
            }
            (TokenTree::Group(group), ..) => {
                collect_names(group.stream(), module, names);
                at += 1;
            }
            _ => at += 1,
        }
    }
}

/// Fields and methods follow a single dot (`..base` is a value); a keyword may stand before a path's `::`.
fn begins_no_path(word: &Ident, tokens: &[TokenTree], at: usize) -> bool {
    let dot = |back: usize| at >= back && is_punct(&tokens[at - back], '.');
    let keyword = BEFORE_PATHS.iter().any(|keyword| word == keyword);
    keyword || (dot(1) && !dot(2))
}

fn is_punct(token: &TokenTree, sign: char) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == sign)
}

/// Reads one path, and the tree of paths that an import may be, from `at` on; returns where it ends.
fn collect_path(
    tokens: &[TokenTree],
    mut at: usize,
    prefix: &[String],
    module: &[String],
    names: &mut Vec<Name>,
) -> usize {
    let line = tokens[at].span().start().line;
    let mut path = prefix.to_vec();
    loop {
        match &tokens[at] {
            TokenTree::Ident(segment) => path.push(segment.to_string()),
            TokenTree::Punct(punct) if punct.as_char() == '*' => path.push("*".to_owned()),
            TokenTree::Group(branches) if branches.delimiter() == Delimiter::Brace => {
                collect_branches(branches.stream(), &path, module, names);
                return at + 1;
            }
            // A turbofish, or the macro `path!` of something else: the path ends before it.
            _ => break,
        }
        at += 1;
        let goes_on =
            tokens.len() > at + 2 && is_punct(&tokens[at], ':') && is_punct(&tokens[at + 1], ':');
        if !goes_on {
            break;
        }
        at += 2;
    }
    let renamed = matches!(tokens.get(at), Some(TokenTree::Ident(word)) if word == "as");
    names.push(Name {
        line,
        path: resolve(&path, module, renamed),
    });
    at
}

fn collect_branches(
    branches: TokenStream,
    prefix: &[String],
    module: &[String],
    names: &mut Vec<Name>,
) {
    let tokens: Vec<TokenTree> = branches.into_iter().collect();
    for branch in tokens.split(|token| is_punct(token, ',')) {
        if !branch.is_empty() {
            collect_path(branch, 0, prefix, module, names);
        }
    }
}

/// Follows `crate`, `self` and `super`. A root under another name could be followed no further, so `renamed`
/// counts as taking everything.
fn resolve(path: &[String], module: &[String], renamed: bool) -> Named {
    let words: Vec<&str> = path.iter().map(String::as_str).collect();
    let (mut whole, rest) = match words.as_slice() {
        ["crate" | "oncegate", rest @ ..] => (Vec::new(), rest),
        ["self" | "super", ..] => (module.to_vec(), words.as_slice()),
        _ => return Named::Elsewhere(path.to_vec()),
    };
    for word in rest {
        match *word {
            "self" => {}
            "super" => {
                whole.pop();
            }
            name => whole.push(name.to_owned()),
        }
    }
    if whole.is_empty() && renamed {
        whole.push("*".to_owned());
    }
    Named::Here(whole)
}

/// Asserts that a file is refused, and that the complaint says `why`.
fn assert_refused(file: &str, text: &str, why: &str) {
    let faults = faults_of(file, text);
    assert!(
        faults.iter().any(|fault| fault.contains(why)),
        "{file}: `{text}` should be refused ({why}), got {faults:?}"
    );
}

fn assert_accepted(file: &str, text: &str) {
    assert_eq!(faults_of(file, text), Vec::<String>::new(), "{text}");
}

#[test]
fn an_import_from_a_floor_above_is_refused_however_it_is_written() {
    for text in [
        "use crate::gateway::Gateway;",
        "use crate::{protocol::Op, gateway::{self, Gateway}};",
        "use {crate::protocol::Op, crate::gateway};",
        "fn f() { crate::gateway::start() }",
        "fn f() -> Vec<crate::gateway::Gateway> { Vec::new() }",
        "fn f() { select! { x = crate::gateway::start() => x } }",
        "use super::super::gateway::Gateway;",
        "use super::{super::gateway, memory};",
        "use self::super::super::gateway::Gateway;",
        "mod tests { use super::super::super::gateway::Gateway; }",
        "fn f() -> S { S { a: 1, ..crate::gateway::default() } }",
        "macro_rules! m { () => { $crate::gateway::start() } }",
        "#[cfg(test)] mod tests { use crate::gateway::Gateway; }",
    ] {
        assert_refused("store/embedded.rs", text, "`gateway` on a floor above");
    }
    assert_refused(
        "route/mod.rs",
        "use super::config::Config;",
        "a floor above",
    );
    assert_refused("app.rs", "use crate::cli::Serve;", "a floor above");
    assert_refused("cli/serve.rs", "use crate::main::run;", "a floor above");
}

#[test]
fn an_import_from_the_same_floor_is_refused() {
    let own_floor = "on its own floor";
    assert_refused("store/mod.rs", "use crate::telemetry::Metrics;", own_floor);
    assert_refused("gateway/mod.rs", "use crate::admin::Readiness;", own_floor);
    assert_refused("server/mod.rs", "use crate::store::Store;", own_floor);
}

#[test]
fn what_hides_where_it_comes_from_is_refused() {
    let whole_root = "takes the whole crate root";
    assert_refused("store/mod.rs", "use crate::*;", whole_root);
    assert_refused("store/mod.rs", "use super::*;", whole_root);
    assert_refused("store/mod.rs", "use crate as root;", whole_root);
    assert_refused("store/mod.rs", "use crate::{self as root};", whole_root);
    assert_refused("store/mod.rs", "use crate::Gateway;", "on no floor");
    assert_refused("attic/mod.rs", "", "on no floor");
}

#[test]
fn a_pure_module_that_names_runtime_socket_file_clock_or_chance_is_refused() {
    for text in [
        "use tokio::sync::Mutex;",
        "use ::tokio::sync::Mutex;",
        "#[tokio::test] async fn t() {}",
        "fn f() { tokio::spawn(async {}); }",
        "use std::net::SocketAddr;",
        "use std::{fmt, net::{IpAddr, SocketAddr}};",
        "use std::fs;",
        "use std::time::{Duration, Instant};",
        "use std::time::*;",
        "use std::time; fn f() { time::SystemTime::now(); }",
        "fn f() { std::time::Instant::now(); }",
        "use rand::random;",
        "fn f() { getrandom::fill(&mut []); }",
        "use aws_lc_rs::{digest, rand::SystemRandom};",
        "use aws_lc_rs::rand::*;",
    ] {
        for file in ["protocol/apply.rs", "identity/mod.rs", "route/table.rs"] {
            assert_refused(file, text, "is pure and names");
        }
        assert_accepted("store/mod.rs", text);
    }
}

#[test]
fn what_stays_within_its_floor_is_accepted() {
    for text in [
        "use crate::protocol::{Op, Record}; use super::codec; use self::table::Table;",
        "pub(crate) fn f() {} pub(super) fn g() {} pub(in crate::store) fn h() {}",
        "mod tests { use super::*; mod deep { use super::super::Store; } }",
        "// use crate::gateway::Gateway;\nfn f() {}",
        "/* crate::gateway */ fn f() -> &'static str { \"crate::gateway\" }",
        "/// See [`crate::gateway`].\nfn f() {}",
        "fn f(&self) { self.gateway.admin() }",
        "use crate::config::{self, Limits};",
    ] {
        assert_accepted("store/embedded.rs", text);
    }
    assert_accepted("main.rs", "use oncegate::cli; fn main() { cli::run() }");
    assert_accepted("lib.rs", "pub mod gateway;");
    assert_accepted(
        "protocol/time.rs",
        "use std::time::Duration; fn f(x: X) -> u8 { x.rand }",
    );
}

#[test]
fn a_fault_says_its_line() {
    let faults = faults_of("route/mod.rs", "\n\nuse crate::store::Store;");
    assert_eq!(faults, ["3: `route` imports from `store` on a floor above"]);
}
